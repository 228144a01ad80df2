package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"orchestrate/internal/queue"
)

func newEventsCmd(a *App) *cobra.Command {
	cmd := newGroup("events", "List, show, replay, cancel and send events",
		`An event is a stored webhook delivery. Each route that wants it gives it a job,
and the jobs' states make up the event's: pending, processing, completed, failed
(a retry is due) or dead_letter (no retry is left).`)
	cmd.AddCommand(
		newEventsListCmd(a), newEventsShowCmd(a), newEventsRetryCmd(a),
		newEventsRequeueDeadCmd(a), newEventsCancelCmd(a), newEventsSendCmd(a),
	)
	return cmd
}

// newEventList prints events as "events list" does.
func newEventList(a *App) *list[*queue.Event] {
	now := queue.Now()
	cols := columns("ID", "STATUS", "EVENT", "REPO", "ROUTES", "RETRIES", a.timeColumn("AGE", "RECEIVED"), "ERROR")
	cols[1].color = statusColor
	for _, i := range []int{2, 3, 4, 7} {
		cols[i].shrink = true
	}
	return newList(a, cols, func(e *queue.Event) []string {
		return []string{
			itoa(e.ID), string(e.Status), e.Kind(), string(e.Repository), strings.Join(e.Routes, ", "),
			fmt.Sprintf("%d/%d", e.RetryCount, e.MaxRetries), a.when(e.ReceivedAt, now), string(e.ErrorMessage),
		}
	})
}

// resolve finds the events that were named.
func resolve(ctx context.Context, q *queue.Queue, refs []string) ([]int64, error) {
	ids := make([]int64, len(refs))
	for i, ref := range refs {
		id, err := q.Resolve(ctx, ref)
		if err != nil {
			return nil, err
		}
		ids[i] = id
	}
	return ids, nil
}

const idHelp = `
An ID of digits is the number of an event; anything else is a delivery id, as
GitHub's settings page shows it, or the start of one that is unique.`
