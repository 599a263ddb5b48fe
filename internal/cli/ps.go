package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// podInfo is a pod as the API shows it.
type podInfo struct {
	ID        string  `json:"id"`
	Version   int     `json:"version"`
	Power     string  `json:"power"`
	Slot      int     `json:"slot"`
	Attempt   int     `json:"attempt"`
	State     string  `json:"state"`
	CreatedAt float64 `json:"createdAt"` // Unix seconds, as the following
	HealthyAt float64 `json:"healthyAt,omitempty"`
	StoppedAt float64 `json:"stoppedAt,omitempty"`
	EndedAt   float64 `json:"endedAt,omitempty"`
	HoldUntil float64 `json:"holdUntil,omitempty"` // a failed pod is kept until then
	Reason    string  `json:"reason"`
	Exits     []struct {
		Name       string `json:"name"`
		ExitCode   int    `json:"exitCode"`
		OOMKilled  bool   `json:"oomKilled"`
		StartError string `json:"startError,omitempty"`
	} `json:"exits"`
}

func (a *App) psCommand() *cobra.Command {
	in := struct {
		ServiceName string `json:"serviceName"`
		Version     int    `json:"version,omitempty"`
		Ended       bool   `json:"ended"`
	}{}
	cmd := &cobra.Command{
		Use:   "ps SERVICE",
		Short: "List the pods of a service; with --all, how others ended",
		Example: `  trysail ps web
  trysail ps web --all --version 7`,
		Args:              exactArgs("SERVICE"),
		ValidArgsFunction: a.completeService,
	}
	f := a.commonFlags(cmd)
	cmd.Flags().IntVar(&in.Version, "version", 0, "only the pods of this version")
	cmd.Flags().BoolVarP(&in.Ended, "all", "a", false, "also pods that have ended, of all kept versions")
	a.completeFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if in.Version < 0 {
			return Usagef("--version must be 1 or more")
		}
		c, asJSON, err := a.begin(f)
		if err != nil {
			return err
		}
		in.ServiceName = args[0]
		var out struct {
			Pods []podInfo `json:"pods"`
		}
		if err := c.call(cmd.Context(), "ListPods", in, &out); err != nil {
			return err
		}
		if asJSON {
			return printJSON(a.Out, out)
		}
		if len(out.Pods) == 0 {
			hint := ""
			if !in.Ended {
				hint = " Those that have ended: trysail ps " + args[0] + " --all"
			}
			fmt.Fprintf(a.Out, "No pod of service %s is running.%s\n", args[0], hint)
			return nil
		}
		return printPods(a.screen(a.Out), out.Pods)
	}
	return cmd
}

func printPods(s screen, pods []podInfo) error {
	var rows [][]string
	for _, p := range pods {
		started := unixTime(p.CreatedAt)
		row := []string{clean(p.ID), fmt.Sprint(p.Version), s.state(p.State), when(&started), "", clean(p.Reason)}
		if p.EndedAt > 0 {
			row[4] = unixTime(p.EndedAt).Sub(started).Round(time.Second / 10).String()
		} else if p.HoldUntil > 0 {
			row[5] = strings.TrimPrefix(row[5]+"; held until "+unixTime(p.HoldUntil).Local().Format("15:04:05"), "; ")
		}
		rows = append(rows, row)
	}
	return s.table([]string{"POD", "VERSION", s.state("STATE"), "STARTED", "LIVED", "REASON"}, rows)
}

func unixTime(seconds float64) time.Time { return time.UnixMilli(int64(seconds * 1000)) }
