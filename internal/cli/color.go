package cli

import "orchestrate/internal/queue"

// when something is coloured; it is the flag --color.
type colorMode string

const (
	colorAuto   colorMode = "auto"
	colorAlways colorMode = "always"
	colorNever  colorMode = "never"
)

func colorModes() []colorMode { return []colorMode{colorAuto, colorAlways, colorNever} }

// wanted tells whether a stream has colours. Auto asks the environment, as
// no-color.org and bixense.com/clicolors describe it, then the stream.
func (m colorMode) wanted(terminal bool, getenv func(string) string) bool {
	switch {
	case m == colorAlways || m == colorNever:
		return m == colorAlways
	case getenv("NO_COLOR") != "":
		return false
	}
	if force := getenv("CLICOLOR_FORCE"); force != "" && force != "0" {
		return true
	}
	return terminal && getenv("TERM") != "dumb"
}

// colored tells whether tables and pages have colours.
func (a *App) colored() bool { return a.color.wanted(a.OutTTY, a.Getenv) }

// statusColor paints a status by what it asks of the reader.
func statusColor(status string) string {
	codes := map[queue.Status]string{
		queue.StatusDeadLetter: "31", queue.StatusFailed: "33", queue.StatusProcessing: "36", queue.StatusCompleted: "32",
	}
	if code, ok := codes[queue.Status(status)]; ok {
		return "\x1b[" + code + "m" + status + "\x1b[0m"
	}
	return status
}
