package cli

import (
	"bytes"
	"strings"
	"time"

	"github.com/olekukonko/tablewriter"
	"github.com/olekukonko/tablewriter/pkg/twwidth"
	"github.com/olekukonko/tablewriter/renderer"
	"github.com/olekukonko/tablewriter/tw"

	"orchestrate/internal/queue"
)

// column is a heading and what may be done to its cells on a terminal.
type column struct {
	name   string
	shrink bool // may be cut to fit the width
	color  func(cell string) string
}

func columns(names ...string) []column {
	cols := make([]column, len(names))
	for i, n := range names {
		cols[i].name = n
	}
	return cols
}

const (
	tableGap   = 2    // blanks between columns
	tableBlock = 1000 // rows that are kept to find the widths; further ones widen them
	minCell    = 8    // columns that a cell is not cut below
)

// table prints rows in the borderless look. It keeps no more than a block of
// them, so that a list of any length can be printed.
type table struct {
	app    *App
	cols   []column
	widths []int
	rows   [][]string
	headed bool
}

func newTable(a *App, cols []column) *table {
	t := &table{app: a, cols: cols, widths: make([]int, len(cols))}
	for i, c := range cols {
		t.widths[i] = twwidth.Width(c.name)
	}
	return t
}

func (t *table) add(cells []string) error {
	for i, c := range cells {
		cells[i] = printable(c)
		t.widths[i] = max(t.widths[i], twwidth.Width(cells[i]))
	}
	t.rows = append(t.rows, cells)
	if len(t.rows) < tableBlock {
		return nil
	}
	return t.flush()
}

// flush prints the rows that are kept, with the heading before the first.
func (t *table) flush() error {
	if len(t.rows) == 0 {
		return nil
	}
	if t.app.OutTTY {
		t.fit()
	}
	text, err := t.render()
	if err != nil {
		return err
	}
	t.rows, t.headed = nil, true
	for line := range bytes.Lines(text) {
		if _, err := t.app.Out.Write(append(bytes.TrimRight(line, " \n"), '\n')); err != nil {
			return err
		}
	}
	return nil
}

// fit narrows the columns that may be cut, the widest first, until a row fits
// the terminal.
func (t *table) fit() {
	total := -tableGap
	for _, w := range t.widths {
		total += w + tableGap
	}
	for ; t.app.Width > 0 && total > t.app.Width; total-- {
		widest := -1
		for i, c := range t.cols {
			if c.shrink && t.widths[i] > minCell && (widest < 0 || t.widths[i] >= t.widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			break
		}
		t.widths[widest]--
	}
	for _, row := range t.rows {
		for i, cell := range row {
			row[i] = t.dress(i, cell)
		}
	}
}

// dress cuts and colours a cell for a terminal.
func (t *table) dress(i int, cell string) string {
	if twwidth.Width(cell) > t.widths[i] {
		cell = twwidth.Truncate(cell, t.widths[i], "…")
	}
	if t.cols[i].color != nil && t.app.colored() {
		return t.cols[i].color(cell)
	}
	return cell
}

func (t *table) render() ([]byte, error) {
	var b bytes.Buffer
	widths := tw.NewMapper[int, int]()
	for i, w := range t.widths {
		widths[i] = w + tableGap
	}
	tab := tablewriter.NewTable(&b,
		tablewriter.WithRenderer(renderer.NewBlueprint(tw.Rendition{
			Borders:  tw.BorderNone,
			Settings: tw.Settings{Separators: tw.SeparatorsNone, Lines: tw.LinesNone},
		})),
		tablewriter.WithHeaderAutoFormat(tw.Off),
		tablewriter.WithHeaderAutoWrap(tw.WrapNone), tablewriter.WithRowAutoWrap(tw.WrapNone),
		tablewriter.WithHeaderAlignment(tw.AlignLeft), tablewriter.WithRowAlignment(tw.AlignLeft),
		tablewriter.WithPadding(tw.Padding{Right: strings.Repeat(" ", tableGap), Overwrite: true}),
		tablewriter.WithColumnWidths(widths),
	)
	if !t.headed {
		names := make([]string, len(t.cols))
		for i, c := range t.cols {
			names[i] = c.name
		}
		tab.Header(names)
	}
	if err := tab.Bulk(t.rows); err != nil {
		return nil, err
	}
	if err := tab.Render(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// colored tells whether stdout is a terminal that is to have colours
// (no-color.org).
func (a *App) colored() bool {
	return a.OutTTY && a.Getenv("NO_COLOR") == "" && a.Getenv("TERM") != "dumb"
}

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

// timeColumn is the heading of a time that when prints.
func (a *App) timeColumn(relative, absolute string) string {
	if a.OutTTY {
		return relative
	}
	return absolute
}

// when is a time as a table shows it: its distance on a terminal, where
// somebody looks now, and RFC 3339 in what is kept.
func (a *App) when(t, now queue.Time) string {
	switch {
	case t == 0:
		return "-"
	case !a.OutTTY:
		return t.String()
	default:
		return age(now.Sub(t))
	}
}

// due is a time that work waits for, which may lie ahead.
func (a *App) due(t, now queue.Time) string {
	if a.OutTTY && t != 0 && t <= now {
		return a.when(t, now) + " ago"
	}
	return a.when(t, now)
}

// age is a distance in time in the largest unit that fits; "in 5s" lies ahead.
func age(d time.Duration) string {
	if d < 0 {
		return "in " + age(-d)
	}
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "m"}} {
		if d >= u.unit {
			return itoa(int64(d/u.unit)) + u.name
		}
	}
	return itoa(int64(d/time.Second)) + "s"
}

// moment is a time as a page shows it.
func (a *App) moment(t, now queue.Time) string {
	if !a.OutTTY {
		return t.String()
	}
	if d := now.Sub(t); d >= 0 {
		return t.String() + " (" + age(d) + " ago)"
	}
	return t.String() + " (" + age(now.Sub(t)) + ")"
}
