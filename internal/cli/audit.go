package cli

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// auditEvent is one entry of the audit trail.
type auditEvent struct {
	Time          float64           `json:"time"` // Unix seconds
	AccessKeyID   string            `json:"accessKeyId"`
	Caller        string            `json:"caller"`
	Role          string            `json:"role,omitempty"`
	Operation     string            `json:"operation"`
	ServiceName   string            `json:"serviceName,omitempty"`
	Resource      string            `json:"resource,omitempty"`
	Outcome       string            `json:"outcome"`
	ErrorCode     string            `json:"errorCode,omitempty"`
	RequestID     string            `json:"requestId,omitempty"`
	SourceAddress string            `json:"sourceAddress,omitempty"`
	UserAgent     string            `json:"userAgent,omitempty"`
	Client        string            `json:"client,omitempty"` // the program that the user agent names
	Details       map[string]string `json:"details,omitempty"`
}

// auditQuery is what is asked of the audit trail.
type auditQuery struct {
	StartTime   float64 `json:"startTime,omitempty"`
	EndTime     float64 `json:"endTime,omitempty"`
	ServiceName string  `json:"serviceName,omitempty"`
	AccessKey   string  `json:"accessKey,omitempty"` // id or name
	Outcome     string  `json:"outcome,omitempty"`
	PageToken   string  `json:"pageToken,omitempty"`
	Limit       int     `json:"limit,omitempty"`
}

// auditPage is how many entries one call asks for.
const auditPage = 100

func (a *App) auditCommand() *cobra.Command {
	var since, until, key, outcome string
	var limit int
	cmd := &cobra.Command{
		Use:   "audit [SERVICE]",
		Short: "List who changed what, or tried to, newest first",
		Long: `List who changed what, or tried to, newest first: which access key called which operation on what, from where, with which
program, and what came of it. Calls that only read are not in it. Without SERVICE: everything. It takes a key with the role admin.

Outcomes: success, failure (refused, or it did not work) and unauthenticated (an unknown key, or a wrong secret). So that nobody can
flood the trail, of many failures within a minute only some are in it, with the number of those that are not.`,
		Example: `  trysail audit web --since 7d
  trysail audit --key ci --outcome failure
  trysail audit --since 24h -n 0 -o json | jq -r '.events[].details.command | values'`,
		Args:              rangeArgs(0, "SERVICE"),
		ValidArgsFunction: a.completeService,
	}
	f := a.commonFlags(cmd)
	cmd.Flags().StringVar(&since, "since", "", "only from then on: 10m, 36h, 7d, 2026-11-20, 2026-11-20T10:00:00Z")
	cmd.Flags().StringVar(&until, "until", "", "only up to then")
	cmd.Flags().StringVar(&key, "key", "", "only of the access key with this id or name")
	cmd.Flags().StringVar(&outcome, "outcome", "", "only with this outcome: success, failure, unauthenticated")
	must(cmd.RegisterFlagCompletionFunc("outcome", cobra.FixedCompletions([]string{"success", "failure", "unauthenticated"}, cobra.ShellCompDirectiveNoFileComp)))
	cmd.Flags().IntVarP(&limit, "limit", "n", 50, "at most so many; 0: all")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		from, err := parseTime("--since", since, time.Now())
		if err != nil {
			return err
		}
		to, err := parseTime("--until", until, time.Now())
		if err != nil {
			return err
		}
		if limit < 0 {
			return Usagef("--limit must be 0 or more")
		}
		c, asJSON, err := a.begin(f)
		if err != nil {
			return err
		}
		q := auditQuery{StartTime: unixSeconds(from), EndTime: unixSeconds(to), AccessKey: key, Outcome: outcome}
		if len(args) > 0 {
			q.ServiceName = args[0]
		}
		events, err := c.audit(cmd.Context(), q, limit)
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(a.Out, map[string]any{"events": events})
		}
		return a.printAudit(events)
	}
	return cmd
}

func unixSeconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}

// audit reads pages until there are enough entries; limit 0 stands for all.
func (c *client) audit(ctx context.Context, q auditQuery, limit int) ([]auditEvent, error) {
	events := []auditEvent{}
	for {
		q.Limit = auditPage
		if limit > 0 {
			q.Limit = min(auditPage, limit-len(events))
		}
		var page struct {
			Events        []auditEvent `json:"events"`
			NextPageToken string       `json:"nextPageToken"`
		}
		if err := c.call(ctx, "GetAuditTrail", q, &page); err != nil {
			return nil, err
		}
		events = append(events, page.Events...)
		q.PageToken = page.NextPageToken
		if page.NextPageToken == "" || limit > 0 && len(events) >= limit {
			return events, nil
		}
	}
}

func (a *App) printAudit(events []auditEvent) error {
	if len(events) == 0 {
		fmt.Fprintln(a.Err, "Nothing in the audit trail fits.")
		return nil
	}
	s := a.screen(a.Out)
	var rows [][]string
	for _, e := range events {
		t := unixTime(e.Time)
		about := e.ServiceName
		if e.Resource != "" && e.Resource != e.ServiceName {
			about = e.Resource
		}
		outcome, colour := e.Outcome, green
		if e.ErrorCode != "" {
			outcome, colour = e.ErrorCode, red
		}
		rows = append(rows, []string{when(&t), orDash(clean(cmp.Or(e.Caller, e.AccessKeyID))), orDash(clean(e.Role)), clean(e.Operation), orDash(clean(about)), s.paint(colour, clean(outcome)), orDash(clean(e.SourceAddress)), orDash(clean(e.Client)), auditDetails(e.Details)})
	}
	return s.table([]string{"TIME", "CALLER", "ROLE", "OPERATION", "ON", s.paint(plain, "OUTCOME"), "FROM", "WITH", "DETAILS"}, rows)
}

// auditDetails are the details of an event in one line, in the order of their names.
func auditDetails(details map[string]string) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(details)) {
		if text := clean(details[name]); text != "" {
			parts = append(parts, clean(name)+": "+text)
		}
	}
	return orDash(strings.Join(parts, "; "))
}
