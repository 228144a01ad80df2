package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// report is what was measured.
type report struct {
	Machine  map[string]string `json:"machine"`
	Sizes    map[string]int    `json:"sizes"`
	Ratios   []ratio           `json:"ratios"`
	Figures  []*figure         `json:"figures"`
	out      io.Writer
	progress io.Writer
}

// figure is one quantity of one contender, a value a round.
type figure struct {
	Name      string    `json:"name"`
	Contender string    `json:"contender"`
	Unit      string    `json:"unit"`
	Values    []float64 `json:"values"`
}

// ratio compares two figures, round by round.
type ratio struct {
	Name   string    `json:"name"`
	Goal   string    `json:"goal,omitempty"`
	Values []float64 `json:"values"`
}

func (r *report) add(name, contender, unit string, value float64) {
	fmt.Fprintf(r.progress, "%-34s %-22s %10.2f %s\n", name, contender, value, unit)
	f := r.find(name, contender)
	if f == nil {
		f = &figure{Name: name, Contender: contender, Unit: unit}
		r.Figures = append(r.Figures, f)
	}
	f.Values = append(f.Values, value)
}

func (r *report) find(name, contender string) *figure {
	for _, f := range r.Figures {
		if f.Name == name && f.Contender == contender {
			return f
		}
	}
	return nil
}

// compare divides one contender's figure by the others', in each round by the
// largest of those; without others it is the figure itself.
func (r *report) compare(name, goal, what, one string, others ...string) {
	figures := make([]*figure, len(others))
	for i, other := range others {
		figures[i] = r.find(what, other)
	}
	r.compareFigures(name, goal, r.find(what, one), figures...)
}

func (r *report) compareFigures(name, goal string, one *figure, others ...*figure) {
	values := make([]float64, len(one.Values))
	for i, v := range one.Values {
		var largest float64
		for _, other := range others {
			largest = max(largest, other.Values[i])
		}
		values[i] = v / cmp.Or(largest, 1)
	}
	r.Ratios = append(r.Ratios, ratio{name, goal, values})
}

func (r *report) print() {
	w := tabwriter.NewWriter(r.out, 0, 0, 2, ' ', tabwriter.AlignRight|tabwriter.DiscardEmptyColumns)
	fmt.Fprintln(w, "ratio\tmedian\tmin\tmax\tgoal\t")
	for _, q := range r.Ratios {
		fmt.Fprintf(w, "%s\t%.2f\t%.2f\t%.2f\t%s\t\n", q.Name, median(q.Values), slices.Min(q.Values), slices.Max(q.Values), q.Goal)
	}
	fmt.Fprintln(w, "\t\t\t\t\t")
	fmt.Fprintln(w, "figure\tcontender\tmedian\tmin\tmax\tunit\t")
	for _, f := range r.Figures {
		fmt.Fprintf(w, "%s\t%s\t%.2f\t%.2f\t%.2f\t%s\t\n", f.Name, f.Contender, median(f.Values), slices.Min(f.Values), slices.Max(f.Values), f.Unit)
	}
	_ = w.Flush()
}

func median(values []float64) float64 { return quantile(values, 0.5) }

func quantile(values []float64, q float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[int(q*float64(len(sorted)-1)+0.5)]
}
