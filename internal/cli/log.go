package cli

import (
	"bytes"
	"context"
	"encoding"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	charm "github.com/charmbracelet/log"
	"github.com/muesli/termenv"

	"orchestrate/internal/config"
	"orchestrate/internal/queue"
)

// logOptions say how to log.
type logOptions struct {
	format   string // text, json, auto: text on a terminal
	terminal bool
	colour   bool         // of text
	least    slog.Leveler // may change
	redactor *redactor
}

// newLogger returns the one logger of this program. What it logs is resolved,
// redacted and printable, whatever the format.
func newLogger(w io.Writer, o logOptions) (*slog.Logger, error) {
	switch {
	case o.format == "text" || o.format == "auto" && o.terminal:
		return slog.New(&logHandler{next: textHandler(w, o.colour), least: o.least, redactor: o.redactor, flat: true}), nil
	case o.format == "json" || o.format == "auto":
		return slog.New(&logHandler{next: jsonHandler(w), least: o.least, redactor: o.redactor}), nil
	}
	return nil, fmt.Errorf("log format %q is not one of auto, text, json", o.format)
}

func textHandler(w io.Writer, colour bool) slog.Handler {
	// Given a terminal's file, the library would ask the terminal for its
	// colours, and read the answer from whoever types there.
	l := charm.NewWithOptions(&struct{ io.Writer }{w}, charm.Options{
		Level: charm.DebugLevel, ReportTimestamp: true,
		TimeFunction: charm.NowUTC, TimeFormat: "2006-01-02T15:04:05.000Z07:00",
	})
	if colour {
		l.SetColorProfile(termenv.ANSI256)
	} else {
		l.SetColorProfile(termenv.Ascii)
	}
	return l
}

func jsonHandler(w io.Writer) slog.Handler {
	return slog.NewJSONHandler(w, &slog.HandlerOptions{
		Level: slog.LevelDebug,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey {
				a.Value = slog.StringValue(queue.At(a.Value.Time()).String())
			}
			return a
		},
	})
}

const (
	redacted   = "[redacted]"
	maxLogText = 16 << 10 // bytes of one text
	maxLogList = 1000     // elements of one list
	maxLogNest = 16       // values within values

	// Less than this can't be told from other text, and to cut it out
	// everywhere would show what it is.
	minRedacted = 4
)

// redactor knows the secrets that no line may show. Nil knows none. Safe for
// concurrent use.
type redactor struct {
	mu     sync.RWMutex
	values []string // the longest first, as one may contain another
}

func (r *redactor) add(secrets ...config.Secret) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range secrets {
		if v := string(s.Bytes()); len(v) >= minRedacted && !slices.Contains(r.values, v) {
			r.values = append(r.values, v)
		}
	}
	slices.SortFunc(r.values, func(a, b string) int { return len(b) - len(a) })
}

func (r *redactor) redact(s string) string {
	if r == nil {
		return s
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, v := range r.values {
		s = strings.ReplaceAll(s, v, redacted)
	}
	return s
}

// logHandler stands before the handlers that format, since neither does all of
// it: charmbracelet/log prints what a LogValuer hides, passes control
// characters of messages, drops attributes that are named as its own fields,
// and has no groups; slog's JSON keeps them apart only by order.
type logHandler struct {
	next     slog.Handler
	least    slog.Leveler // may change
	redactor *redactor
	flat     bool // groups become dotted keys, and lists text
	scopes   []logScope
}

// logScope is what one With or WithGroup added. The values are kept as they
// came: a secret may become known only later.
type logScope struct {
	group string
	attrs []slog.Attr
}

func (h *logHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.least.Level() }

func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	if len(attrs) == 0 {
		return h
	}
	return h.with(logScope{attrs: attrs})
}

func (h *logHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	return h.with(logScope{group: name})
}

func (h *logHandler) with(s logScope) slog.Handler {
	c := *h
	c.scopes = append(slices.Clip(h.scopes), s)
	return &c
}

func (h *logHandler) Handle(ctx context.Context, r slog.Record) error {
	attrs := make([]slog.Attr, 0, r.NumAttrs())
	r.Attrs(func(a slog.Attr) bool {
		attrs = append(attrs, a)
		return true
	})
	for _, s := range slices.Backward(h.scopes) {
		if s.group != "" {
			attrs = []slog.Attr{{Key: s.group, Value: slog.GroupValue(attrs...)}}
		} else {
			attrs = slices.Concat(s.attrs, attrs)
		}
	}
	safe := slog.NewRecord(r.Time, r.Level, h.text(r.Message), r.PC)
	for _, a := range attrs {
		safe.AddAttrs(h.appendAttr(nil, "", true, a)...)
	}
	return h.next.Handle(ctx, safe)
}

// appendAttr adds an attribute made safe, or, where groups are flat, those of a
// group. Top says that its key stands beside those of the line itself.
func (h *logHandler) appendAttr(to []slog.Attr, prefix string, top bool, a slog.Attr) []slog.Attr {
	if a.Equal(slog.Attr{}) {
		return to
	}
	v, key := a.Value.Resolve(), h.key(a.Key)
	isGroup := v.Kind() == slog.KindGroup
	switch {
	case sensitive(a.Key):
		return append(to, slog.String(prefix+key, redacted))
	case isGroup && a.Key == "": // its attributes belong where it stands
		for _, m := range v.Group() {
			to = h.appendAttr(to, prefix, top, m)
		}
		return to
	case isGroup && h.flat:
		for _, m := range v.Group() {
			to = h.appendAttr(to, prefix+key+".", false, m)
		}
		return to
	case isGroup:
		var members []slog.Attr
		for _, m := range v.Group() {
			members = h.appendAttr(members, "", false, m)
		}
		return append(to, slog.Attr{Key: key, Value: slog.GroupValue(members...)})
	}
	if top && slices.Contains([]string{charm.TimestampKey, charm.LevelKey, charm.MessageKey, charm.CallerKey, charm.PrefixKey}, key) {
		key += "_"
	}
	return append(to, slog.Attr{Key: prefix + key, Value: h.value(v)})
}

// value makes one safe. A method of it that panics must not take the program
// with it.
func (h *logHandler) value(v slog.Value) (safe slog.Value) {
	defer func() {
		if p := recover(); p != nil {
			safe = slog.StringValue(h.text(fmt.Sprintf("panic while logging a %T: %v", v.Any(), p)))
		}
	}()
	plain := h.plain(v.Any(), 0)
	if !h.flat {
		return slog.AnyValue(plain)
	}
	switch plain := plain.(type) {
	case []any:
		return slog.StringValue(commaList(plain))
	case map[string]any:
		return slog.StringValue(compactJSON(plain))
	}
	return slog.AnyValue(plain)
}

// commaList is how a text line shows a list of words; one that holds
// anything else is JSON.
func commaList(list []any) string {
	words := make([]string, len(list))
	for i, x := range list {
		s, isText := x.(string)
		if !isText {
			return compactJSON(list)
		}
		words[i] = s
	}
	return strings.Join(words, ",")
}

// plain turns any value into text, a number, a truth, or a list or map of them.
func (h *logHandler) plain(x any, depth int) any {
	if depth > maxLogNest {
		return "…"
	}
	if isNil(x) {
		return nil
	}
	switch x := x.(type) {
	case bool, json.Number:
		return x
	case time.Time:
		return queue.At(x).String()
	case time.Duration:
		return x.String()
	case slog.LogValuer:
		return h.plain(slog.AnyValue(x).Resolve().Any(), depth+1)
	case slog.Value:
		return h.plain(x.Resolve().Any(), depth+1)
	case slog.Attr:
		return h.plainAttrs([]slog.Attr{x}, depth)
	case []slog.Attr:
		return h.plainAttrs(x, depth)
	case error:
		return h.text(x.Error())
	case encoding.TextMarshaler:
		if b, err := x.MarshalText(); err == nil {
			return h.text(string(b))
		}
	case fmt.Stringer:
		return h.text(x.String())
	}
	return h.plainKind(reflect.ValueOf(x), depth)
}

func (h *logHandler) plainKind(v reflect.Value, depth int) any {
	switch k := v.Kind(); {
	case k == reflect.String:
		return h.text(v.String())
	case k == reflect.Bool:
		return v.Bool()
	case v.CanInt():
		return v.Int()
	case v.CanUint():
		return v.Uint()
	case v.CanFloat():
		return v.Float()
	case k == reflect.Slice && v.Type().Elem().Kind() == reflect.Uint8:
		return h.text(string(v.Bytes()))
	case k == reflect.Slice || k == reflect.Array:
		list := make([]any, min(v.Len(), maxLogList))
		for i := range list {
			list[i] = h.plain(v.Index(i).Interface(), depth+1)
		}
		if v.Len() > len(list) {
			list = append(list, "…")
		}
		return list
	case k == reflect.Map:
		m := make(map[string]any, v.Len())
		for i := v.MapRange(); i.Next(); {
			h.put(m, fmt.Sprint(i.Key().Interface()), i.Value().Interface(), depth)
		}
		return m
	}
	return h.plainStruct(v.Interface(), depth)
}

// plainStruct goes through JSON, which knows what a type shows of itself, also
// behind a pointer.
func (h *logHandler) plainStruct(x any, depth int) any {
	b, err := json.Marshal(x)
	if err != nil {
		return h.text(fmt.Sprintf("%+v", x))
	}
	var decoded any
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := d.Decode(&decoded); err != nil {
		return h.text(string(b))
	}
	return h.plain(decoded, depth+1)
}

func (h *logHandler) plainAttrs(attrs []slog.Attr, depth int) any {
	m := make(map[string]any, len(attrs))
	for _, a := range attrs {
		h.put(m, a.Key, a.Value.Resolve().Any(), depth)
	}
	return m
}

func (h *logHandler) put(m map[string]any, key string, x any, depth int) {
	if sensitive(key) {
		x = redacted
	}
	m[h.text(key)] = h.plain(x, depth+1)
}

// text cuts out the secrets before and after the control characters: they could
// stand within one, or belong to it.
func (h *logHandler) text(s string) string {
	return queue.Cut(h.redactor.redact(queue.Printable(h.redactor.redact(s))), maxLogText)
}

// key also replaces what would let a key of a text line pass for several.
func (h *logHandler) key(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == ' ' || r == '=' || r == '"' {
			return '_'
		}
		return r
	}, h.text(s))
	if s == "" {
		return "_"
	}
	return s
}

// sensitive tells whether a key, whatever its spelling, names what is not shown.
func sensitive(key string) bool {
	key = strings.ToLower(strings.Map(func(r rune) rune {
		if strings.ContainsRune("_-. ", r) {
			return -1
		}
		return r
	}, key))
	return slices.ContainsFunc([]string{
		"secret", "token", "password", "passwd", "authorization", "signature", "apikey", "privatekey", "credential", "cookie",
	}, func(word string) bool { return strings.Contains(key, word) })
}

func isNil(x any) bool {
	switch v := reflect.ValueOf(x); {
	case !v.IsValid():
		return true
	case v.Kind() == reflect.Pointer || v.Kind() == reflect.Map || v.Kind() == reflect.Slice || v.Kind() == reflect.Func || v.Kind() == reflect.Chan:
		return v.IsNil()
	}
	return false
}

func compactJSON(x any) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(x); err != nil { // a float that is no number
		return fmt.Sprint(x)
	}
	return strings.TrimSuffix(b.String(), "\n")
}
