package cli

import (
	"bytes"
	"slices"
	"strings"
	"time"

	"github.com/olekukonko/tablewriter"
	"github.com/olekukonko/tablewriter/pkg/twwidth"
	"github.com/olekukonko/tablewriter/renderer"
	"github.com/olekukonko/tablewriter/tw"

	"orchestrate/internal/queue"
)

// column is a heading and what may be done to its cells.
type column struct {
	name   string
	wide   bool // only in wide tables and tsv
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

// narrow allows the columns with these names to be cut on a terminal.
func narrow(cols []column, names ...string) []column {
	for i := range cols {
		cols[i].shrink = slices.Contains(names, cols[i].name)
	}
	return cols
}

// onlyWide leaves the columns with these names to wide tables and tsv.
func onlyWide(cols []column, names ...string) []column {
	for i := range cols {
		cols[i].wide = slices.Contains(names, cols[i].name)
	}
	return cols
}

const (
	tableGap   = 2    // blanks between columns
	tableBlock = 1000 // rows that are kept to find the widths; further ones widen them
)

// table prints rows in the borderless look. It keeps no more than a block of
// them, so that a list of any length can be printed.
type table struct {
	app    *App
	cols   []column
	shown  []int // the cells of a row that have a column
	widths []int
	rows   [][]string
	headed bool
}

func newTable(a *App, cols []column) *table {
	t := &table{app: a, headed: a.noHeaders}
	for i, c := range cols {
		if c.wide && !a.wide {
			continue
		}
		t.cols, t.shown = append(t.cols, c), append(t.shown, i)
		width := twwidth.Width(c.name)
		if t.headed {
			width = 0
		}
		t.widths = append(t.widths, width)
	}
	return t
}

func (t *table) add(cells []string) error {
	row := make([]string, len(t.shown))
	for i, n := range t.shown {
		row[i] = printable(cells[n])
		t.widths[i] = max(t.widths[i], twwidth.Width(row[i]))
	}
	t.rows = append(t.rows, row)
	if len(t.rows) < tableBlock {
		return nil
	}
	return t.close()
}

// close prints the rows that are kept, with the heading before the first.
func (t *table) close() error {
	if len(t.rows) == 0 {
		return nil
	}
	if t.app.OutTTY && t.app.Width > 0 && !t.app.wide {
		t.fit()
	}
	for _, row := range t.rows {
		for i, cell := range row {
			row[i] = t.dress(i, cell)
		}
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
// the terminal: to what can still be read, then to what can be told apart. What
// does not fit even so ends at the edge, rather than wrap into the next line.
func (t *table) fit() {
	for _, least := range []int{8, 5} {
		for t.width() > t.app.Width && t.shrink(least) {
		}
	}
	room := t.app.Width
	for i, w := range t.widths {
		t.widths[i] = max(0, min(w, room))
		room -= w + tableGap
	}
}

func (t *table) width() int {
	total := -tableGap
	for _, w := range t.widths {
		total += w + tableGap
	}
	return total
}

// shrink narrows the widest column that may be by one, or tells that none is
// above the least.
func (t *table) shrink(least int) bool {
	widest := -1
	for i, c := range t.cols {
		if c.shrink && t.widths[i] > least && (widest < 0 || t.widths[i] >= t.widths[widest]) {
			widest = i
		}
	}
	if widest >= 0 {
		t.widths[widest]--
	}
	return widest >= 0
}

// dress cuts and colours a cell.
func (t *table) dress(i int, cell string) string {
	cell = cutCell(cell, t.widths[i])
	if t.cols[i].color != nil && t.app.colored() {
		return t.cols[i].color(cell)
	}
	return cell
}

func cutCell(s string, width int) string {
	switch {
	case twwidth.Width(s) <= width:
		return s
	case width == 0:
		return ""
	}
	return twwidth.Truncate(s, width, "…")
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
			names[i] = cutCell(c.name, t.widths[i])
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

// timeMode is how tables and pages print times; it is the flag --time.
type timeMode string

const (
	timeRelative timeMode = "relative"
	timeRFC3339  timeMode = "rfc3339"
)

func timeModes() []timeMode { return []timeMode{timeRelative, timeRFC3339} }

// relative tells whether times are distances from now: where somebody looks, if
// nothing else is asked for, and never for programs.
func (a *App) relative() bool {
	switch {
	case a.output == formatTSV:
		return false
	case a.times == "":
		return a.OutTTY
	}
	return a.times == timeRelative
}

// timeColumn is the heading of a time that when prints.
func (a *App) timeColumn(relative, absolute string) string {
	if a.relative() {
		return relative
	}
	return absolute
}

// when is a time as a table shows it; no time is empty.
func (a *App) when(t, now queue.Time) string {
	if t == 0 || !a.relative() {
		return t.String()
	}
	return age(now.Sub(t))
}

// due is a time that work waits for, which may lie ahead.
func (a *App) due(t, now queue.Time) string {
	if a.relative() && t != 0 && t <= now {
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
	if !a.relative() {
		return t.String()
	}
	if d := now.Sub(t); d >= 0 {
		return t.String() + " (" + age(d) + " ago)"
	}
	return t.String() + " (" + age(now.Sub(t)) + ")"
}

// number is one from outside; none is empty.
func number(n queue.Int) string {
	if n == 0 {
		return ""
	}
	return itoa(int64(n))
}
