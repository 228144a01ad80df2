package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"orchestrate/internal/config"
	"orchestrate/internal/queue"
)

// What goes wrong on the command line itself.
var (
	errUsage    = errors.New("usage")
	errPartly   = errors.New("partly done")
	errInternal = errors.New("internal error")
)

// exit is one line of the table of exit codes: what the help prints, and the
// errors that end so.
type exit struct {
	code    int
	meaning string
	errs    []error
}

// exits is the one table. An error takes the first line that knows it, the
// others are 1.
func exits() []exit {
	return []exit{
		{0, "done; also when there was nothing to do", nil},
		{1, "failed, for any other reason; a port in use, too", nil},
		{2, "usage: an unknown flag, a bad value, an ambiguous id", []error{
			errUsage, queue.ErrInvalid, queue.ErrAmbiguous, queue.ErrUnknownRoute,
		}},
		{3, "partly done; the message says how far", []error{errPartly}},
		{4, "not found", []error{queue.ErrNotFound}},
		{5, "refused: the state does not allow it, or it was not confirmed", []error{queue.ErrRefused}},
		{6, "the database is unavailable, locked or full", []error{
			queue.ErrUnavailable, queue.ErrBusy, queue.ErrBroken,
		}},
		{7, "the database's schema is older or newer than this program", []error{queue.ErrSchema}},
		{8, "a check found the database damaged: a page, its log, or a payload", []error{queue.ErrDamaged}},
		{70, "internal error: a defect of this program", []error{errInternal}},
		{78, "the configuration is invalid", []error{config.ErrInvalid}},
		{129, "stopped by SIGHUP; serve and process reload instead", nil},
		{130, "stopped by SIGINT; serve and process: by a second signal", nil},
		{143, "stopped by SIGTERM; serve and process: by a second signal", nil},
	}
}

// exitCodeOf maps an error to the code that the process ends with.
func exitCodeOf(err error) int {
	var s signalError
	if errors.As(err, &s) {
		if n, ok := s.Signal.(syscall.Signal); ok {
			return 128 + int(n)
		}
	}
	if err == nil {
		return 0
	}
	for _, e := range exits() {
		if slices.ContainsFunc(e.errs, func(target error) bool { return errors.Is(err, target) }) {
			return e.code
		}
	}
	return 1
}

// usageError is a command line that can't be meant.
type usageError struct{ msg string }

func (e usageError) Error() string        { return e.msg }
func (e usageError) Is(target error) bool { return target == errUsage }

func usagef(format string, args ...any) error { return usageError{fmt.Sprintf(format, args...)} }

// partly tells how far a command came that changed something before it failed
// or was broken off; of the cause only the text is kept, so that its code does
// not win.
func partly(ctx context.Context, done string, cause error) error {
	if ctx.Err() != nil {
		cause = context.Cause(ctx)
	}
	return fmt.Errorf("%w: %s; %s", errPartly, done, cause.Error())
}

// report tells an error on stderr and returns its exit code.
func (a *App) report(err error, asJSON bool) int {
	code := exitCodeOf(err)
	if !asJSON && !a.documents() {
		a.tell(err)
		return code
	}
	line, _ := json.Marshal(struct {
		Error string `json:"error"`
		Code  int    `json:"code"`
	}{err.Error(), code})
	a.say("%s\n", escapeControls(line))
	return code
}

// tell prints an error for people. What stands in a file begins with its place,
// so that editors find it.
func (a *App) tell(err error) {
	var wrong *config.Mistakes
	if !errors.As(err, &wrong) {
		a.say("orchestrate: %s\n", printableLines(err.Error()))
		return
	}
	for _, m := range wrong.All {
		before := ""
		if m.File == "" {
			before = "orchestrate: " + config.ErrInvalid.Error() + ": "
		}
		a.say("%s%s\n", before, queue.Printable(m.Error()))
	}
}

// printableLines keeps the line breaks of a message that has several lines.
func printableLines(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		lines[i] = queue.Printable(l)
	}
	return strings.Join(lines, "\n")
}

// wantsJSON reads the output format from a command line whose flags may not
// have been parsed, since parsing ends at the first mistake.
func wantsJSON(args []string) bool {
	for i, arg := range args {
		if arg == "--" {
			return false
		}
		before := ""
		if i > 0 {
			before = args[i-1]
		}
		if arg == "--json" || arg == "--jq" || strings.HasPrefix(arg, "--jq=") || isDocumentFlag(before, arg) {
			return true
		}
	}
	return false
}

// isDocumentFlag tells whether an argument asks for documents: -o json, -ojson,
// -o=json, --output json or --output=json.
func isDocumentFlag(before, arg string) bool {
	word := ""
	if before == "-o" || before == "--output" {
		word = arg
	} else if value, ok := strings.CutPrefix(arg, "--output="); ok {
		word = value
	} else if value, ok := strings.CutPrefix(arg, "-o"); ok {
		word = strings.TrimPrefix(value, "=")
	}
	return outputFormat(word).documents()
}

func newExitCodesHelp() *cobra.Command {
	var b strings.Builder
	b.WriteString("Every command ends with one of these codes:\n\n")
	for _, e := range exits() {
		fmt.Fprintf(&b, "  %3d  %s\n", e.code, e.meaning)
	}
	b.WriteString("\nserve and process end with 0 when a signal made them drain; process --once ends\n" +
		"with 0 whatever its handlers did. With -o json, ndjson or yaml, and with --jq, an\n" +
		"error is one object on standard error:\n\n" +
		`  {"error":"event 7: not found","code":4}` + "\n")
	return &cobra.Command{Use: "exit-codes", Short: "The exit codes of every command", Long: b.String()}
}
