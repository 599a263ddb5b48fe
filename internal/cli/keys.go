package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// accessKey is a key as the API shows it.
type accessKey struct {
	AccessKeyID     string `json:"accessKeyId"`
	SecretAccessKey string `json:"secretAccessKey,omitempty"` // only in the answer of CreateAccessKey
	Name            string `json:"name"`
	Role            string `json:"role,omitempty"`
	// ServiceNames are the only services that the key is for; empty: all.
	ServiceNames []string `json:"serviceNames,omitempty"`
	CreatedAt    float64  `json:"createdAt"` // Unix seconds
}

func (k accessKey) created() time.Time { return time.UnixMilli(int64(k.CreatedAt * 1000)) }

func (k accessKey) wire() map[string]any {
	m := map[string]any{"accessKeyId": k.AccessKeyID, "name": k.Name, "createdAt": wire(k.created())}
	if k.Role != "" {
		m["role"] = k.Role
	}
	if len(k.ServiceNames) > 0 {
		m["serviceNames"] = k.ServiceNames
	}
	if k.SecretAccessKey != "" {
		m["secretAccessKey"] = k.SecretAccessKey
	}
	return m
}

func (a *App) keysCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "List, make and delete access keys",
		Long: `List, make and delete access keys. What a key may do is its role, for all services or for some:

  read     look at services, deployments (with their environment), logs and metrics
  deploy   that, and push images, deploy, cancel and run tasks: enough for CI
  admin    everything; of a key for some services: everything with them

Without a subcommand the keys are listed.`,
		Example: `  trysail keys
  trysail keys create --role deploy --service web`,
	}
	list := &cobra.Command{Use: "list", Short: "List the access keys", Example: `  trysail keys list -o json`, Args: exactArgs()}
	return a.group(cmd, a.listKeys, list, a.createKeyCommand(), a.deleteKeyCommand())
}

func (a *App) listKeys(ctx context.Context, c *client, _ []string, asJSON bool) error {
	list, err := c.keys(ctx)
	if err != nil {
		return err
	}
	if asJSON {
		keys := []any{}
		for _, k := range list {
			keys = append(keys, k.wire())
		}
		return printJSON(a.Out, map[string]any{"accessKeys": keys})
	}
	var rows [][]string
	for _, k := range list {
		t := k.created()
		services := "all"
		if len(k.ServiceNames) > 0 {
			services = strings.Join(k.ServiceNames, ",")
		}
		rows = append(rows, []string{k.AccessKeyID, when(&t), orDash(k.Role), clean(services), clean(k.Name)})
	}
	return a.screen(a.Out).table([]string{"ACCESS KEY ID", "CREATED", "ROLE", "SERVICES", "NAME"}, rows)
}

func (c *client) keys(ctx context.Context) ([]accessKey, error) {
	var out struct {
		AccessKeys []accessKey `json:"accessKeys"`
	}
	err := c.call(ctx, "ListAccessKeys", struct{}{}, &out)
	return out.AccessKeys, err
}

func (a *App) createKeyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create [NAME]",
		Short: "Make an access key; its secret is shown this one time",
		Long: `Make an access key; its secret is shown this one time. NAME says what the key is for; by default it is made of the role
and the services. The roles are told by trysail keys --help.`,
		Example: `  trysail keys create --role deploy --service web
  trysail keys create laptop`,
		Args:              rangeArgs(0, "NAME"),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	var in struct {
		Name         string   `json:"name"`
		Role         string   `json:"role"`
		ServiceNames []string `json:"serviceNames,omitempty"`
	}
	cmd.Flags().StringVar(&in.Role, "role", "admin", "read, deploy or admin")
	cmd.Flags().StringSliceVar(&in.ServiceNames, "service", nil, "the only service that the key is for; may be repeated; default: all")
	must(cmd.RegisterFlagCompletionFunc("role", cobra.FixedCompletions([]string{"read", "deploy", "admin"}, cobra.ShellCompDirectiveNoFileComp)))
	must(cmd.RegisterFlagCompletionFunc("service", a.serviceNames()))
	return a.onServer(cmd, func(ctx context.Context, c *client, args []string, asJSON bool) error {
		var out struct {
			AccessKey accessKey `json:"accessKey"`
		}
		in.Name = strings.Join(append([]string{in.Role}, in.ServiceNames...), "-")
		if len(args) > 0 {
			in.Name = args[0]
		}
		if err := c.call(ctx, "CreateAccessKey", in, &out); err != nil {
			return err
		}
		if asJSON {
			return printJSON(a.Out, map[string]any{"accessKey": out.AccessKey.wire()})
		}
		fmt.Fprintf(a.Out, "AWS_ACCESS_KEY_ID=%s\nAWS_SECRET_ACCESS_KEY=%s\n", out.AccessKey.AccessKeyID, out.AccessKey.SecretAccessKey)
		fmt.Fprintln(a.Err, "Keep the secret now: it is not shown again.")
		return nil
	})
}

func (a *App) deleteKeyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "delete ACCESS-KEY-ID",
		Short:             "Delete an access key",
		Long:              "Delete an access key. Calls signed with it are refused from then on, and its sessions end.",
		Example:           `  trysail keys delete AKIA…`,
		Args:              exactArgs("ACCESS-KEY-ID"),
		ValidArgsFunction: inOrder(a.keyNames()),
	}
	return a.onServer(cmd, func(ctx context.Context, c *client, args []string, asJSON bool) error {
		if err := c.call(ctx, "DeleteAccessKey", map[string]string{"accessKeyId": args[0]}, &struct{}{}); err != nil {
			return err
		}
		return a.done(asJSON, "Access key %s is deleted.", clean(args[0]))
	})
}
