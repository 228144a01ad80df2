package queue

import (
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxText is how many bytes of any text from outside are kept.
const MaxText = 255

// Text is a text that may be absent: "" is NULL in the database and null in
// JSON.
type Text string

// MarshalJSON writes null for an absent text.
func (s Text) MarshalJSON() ([]byte, error) {
	if s == "" {
		return []byte("null"), nil
	}
	return json.Marshal(string(s))
}

// Value implements driver.Valuer.
func (s Text) Value() (driver.Value, error) {
	if s == "" {
		return nil, nil
	}
	return string(s), nil
}

// Scan implements sql.Scanner.
func (s *Text) Scan(v any) error {
	switch v := v.(type) {
	case nil:
		*s = ""
	case string:
		*s = Text(v)
	case []byte:
		*s = Text(v)
	default:
		return fmt.Errorf("text column holds %T", v)
	}
	return nil
}

// Clean makes text from outside safe to store, print and log: valid UTF-8, no
// control or formatting characters (they could move the cursor or reorder what
// a terminal shows), line breaks as blanks, at most MaxText bytes.
func Clean(s string) Text { return Text(Cut(Printable(s), MaxText)) }

// Printable replaces line breaks and tabs by blanks and drops what a terminal
// would obey or can't show.
func Printable(s string) string {
	if isPrintable(s) {
		return s
	}
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r' || r == '\u2028' || r == '\u2029':
			return ' '
		case r == utf8.RuneError || unicode.Is(unicode.C, r):
			return -1
		default:
			return r
		}
	}, s)
}

func isPrintable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// Cut shortens s to at most n bytes without splitting a character; an ellipsis
// shows that something is missing.
func Cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	const ellipsis = "…"
	n -= len(ellipsis)
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + ellipsis
}
