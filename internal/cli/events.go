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
	now := a.now()
	cols := columns("ID", "STATUS", "EVENT", "REPO", "NUMBER", "REF", "SENDER", "ROUTES", "RETRIES", "NEXT_RETRY",
		a.timeColumn("AGE", "RECEIVED"), a.timeColumn("ENDED", "PROCESSED"), "DUPLICATES", "SOURCE", "DELIVERY", "ERROR")
	cols = narrow(cols, "EVENT", "REPO", "ROUTES", "ERROR")
	cols = onlyWide(cols, "NUMBER", "REF", "SENDER", "NEXT_RETRY", "ENDED", "PROCESSED", "DUPLICATES", "SOURCE", "DELIVERY")
	cols[1].color = statusColor
	return newList(a, cols, func(e *queue.Event) []string {
		return []string{
			itoa(e.ID), string(e.Status), e.Kind(), string(e.Repository), number(e.Number), string(e.Ref), string(e.Sender),
			strings.Join(e.Routes, ", "), fmt.Sprintf("%d/%d", e.RetryCount, e.MaxRetries), a.due(e.NextRetryAt, now),
			a.when(e.ReceivedAt, now), a.when(e.ProcessedAt, now), itoa(int64(e.DuplicateCount)), e.Source, e.DeliveryID,
			string(e.ErrorMessage),
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
