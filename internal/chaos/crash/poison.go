//go:build unix

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"orchestrate/internal/chaos"
	"orchestrate/internal/queue"
)

// poison sends payloads that kill whoever runs them among others that do not:
// those go to the dead letters, the others are run to their end.
func (h *harness) poison(ctx context.Context, r *rig) error {
	keep, err := r.keepUp(ctx, []string{"serve"}, []string{"process"}, []string{"process"})
	if err != nil {
		return err
	}
	begun := queue.Clock()
	var poisons, neighbours []int64
	for range h.poisons {
		ids, err := r.sendAll(ctx, 10, order{MS: 700})
		bad, err2 := r.send(ctx, order{Poison: true})
		if err = errors.Join(err, err2); err != nil {
			return errors.Join(err, keep())
		}
		neighbours, poisons = append(neighbours, ids...), append(poisons, bad)
	}
	err = errors.Join(r.rested(ctx, 4*time.Minute+time.Duration(h.poisons)*10*time.Second), keep())
	if err != nil {
		return err
	}
	took := queue.Clock().Sub(begun)
	all, err := r.histories(ctx)
	if err != nil {
		return err
	}
	runs, err := chaos.Runs(r.Out)
	if err != nil {
		return err
	}
	var v violations
	for _, id := range poisons {
		j := all[id]
		v.want(j != nil && j.status == "dead_letter" && j.crashes == queue.MaxCrashes && strings.Contains(j.message, "3 workers died while running it"),
			"poison %d: %+v, want a dead letter after 3 crashes", id, j)
		n := timesRun(runs, id)
		// One that another kills first, before it has begun, is counted with it.
		v.want(n > 0 && n <= queue.MaxCrashes, "poison %d was run %d times, want 3 at most", id, n)
	}
	again := 0
	for _, id := range neighbours {
		j := all[id]
		v.want(j != nil && j.status == "completed", "neighbour %d: %+v, want completed", id, j)
		again += timesRun(runs, id) - 1
	}
	suspects := suspected(all, &v)
	looked := oneSuspectAtATime(runs, suspects, &v)
	v.want(looked >= 2*h.poisons, "only %d runs of suspects, want at least 2 of each poison", looked)
	if err := v.err(); err != nil {
		return err
	}
	h.say("poison: %d payloads were counted %d deaths of their workers and are dead letters; %d neighbours completed, run again %d times; %d runs of suspects, one at a time a worker; %s",
		len(poisons), queue.MaxCrashes*len(poisons), len(neighbours), again, looked, took.Round(time.Second))
	return nil
}

func timesRun(runs []chaos.Run, event int64) (n int) {
	for _, r := range runs {
		if r.EventID == event && r.Phase == "start" {
			n++
		}
	}
	return n
}

type claimed struct{ event, seq int64 }

// suspected follows the crashes by the rule of its own, and returns the claims
// of suspects: of a dead worker's jobs its suspect is counted, else all of them.
func suspected(all map[int64]*history, v *violations) map[claimed]bool {
	type end struct {
		ending
		event int64
	}
	var ends []end
	for id, h := range all {
		for _, a := range h.attempts {
			ends = append(ends, end{a, id})
		}
	}
	slices.SortFunc(ends, func(a, b end) int {
		return cmp.Or(cmp.Compare(a.finished, b.finished), cmp.Compare(a.worker, b.worker), cmp.Compare(a.event, b.event))
	})
	count, suspects := map[int64]int{}, map[claimed]bool{}
	for len(ends) > 0 {
		n := 1 // those that one worker left behind
		for ends[0].outcome == "crashed" && n < len(ends) && ends[n].outcome == "crashed" && ends[n].worker == ends[0].worker {
			n++
		}
		before := 0
		for _, e := range ends[:n] {
			before += min(count[e.event], 1)
		}
		v.want(ends[0].outcome != "crashed" || before <= 1, "worker %s died with %d suspects, want one at most", ends[0].worker, before)
		for _, e := range ends[:n] {
			switch {
			case e.outcome != "crashed":
				count[e.event] = 0
			case before == 0 || count[e.event] > 0:
				count[e.event]++
			}
			suspects[claimed{e.event, e.seq + 1}] = count[e.event] > 0
		}
		ends = ends[n:]
	}
	return suspects
}

// oneSuspectAtATime looks at when they started and ended. A run that did not end
// died with its worker, by which nothing is started later.
func oneSuspectAtATime(runs []chaos.Run, suspects map[claimed]bool, v *violations) (looked int) {
	open := map[int]map[claimed]bool{} // by worker
	for _, r := range runs {
		c, worker := claimed{r.EventID, r.Attempt}, r.Exit
		if open[worker] == nil {
			open[worker] = map[claimed]bool{}
		}
		switch {
		case !suspects[c]:
		case r.Phase == "start":
			looked++
			v.want(len(open[worker]) == 0, "process %d started the suspect %v beside %v", worker, c, open[worker])
			open[worker][c] = true
		case r.Phase == "end":
			delete(open[worker], c)
		}
	}
	return looked
}

// keepUp starts processes, and again whenever they end, as a service manager
// does, until it is called off; then it stops them.
func (r *rig) keepUp(ctx context.Context, commands ...[]string) (off func() error, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	errs := make([]error, len(commands))
	off = func() error {
		cancel()
		wg.Wait()
		return errors.Join(errs...)
	}
	for i, args := range commands {
		n, err := r.Start(fmt.Sprintf("%s-%d", args[0], i), args...)
		if err == nil && i == 0 {
			_, err = r.AwaitReady(ctx, n, 30*time.Second)
		}
		if err != nil {
			return nil, errors.Join(err, off())
		}
		wg.Go(func() { errs[i] = keep(ctx, n) })
	}
	return off, nil
}

func keep(ctx context.Context, n *chaos.Node) error {
	for {
		select {
		case <-ctx.Done():
			_, err := n.Stop(20 * time.Second)
			return err
		case <-n.Ended():
			chaos.Pause(ctx, 200*time.Millisecond)
			if err := n.Start(); err != nil {
				return err
			}
		}
	}
}
