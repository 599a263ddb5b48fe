package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
)

// accessKey is a key as the API shows it.
type accessKey struct {
	AccessKeyID     string  `json:"accessKeyId"`
	SecretAccessKey string  `json:"secretAccessKey,omitempty"` // only in the answer of CreateAccessKey
	Name            string  `json:"name"`
	CreatedAt       float64 `json:"createdAt"` // Unix seconds
}

func (k accessKey) created() time.Time { return time.UnixMilli(int64(k.CreatedAt * 1000)) }

func (k accessKey) wire() map[string]any {
	m := map[string]any{"accessKeyId": k.AccessKeyID, "name": k.Name, "createdAt": wire(k.created())}
	if k.SecretAccessKey != "" {
		m["secretAccessKey"] = k.SecretAccessKey
	}
	return m
}

func (a *App) keysCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "List, make and delete access keys",
		Long: `List, make and delete access keys. Whoever has one may do everything with this Trysail.

Without a subcommand the keys are listed.`,
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return unknownCommand(cmd, args[0])
		}
		return nil
	}
	list := a.listKeysCommand()
	f := a.commonFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return a.listKeys(cmd, f) }
	cmd.AddCommand(list, a.createKeyCommand(), a.deleteKeyCommand())
	return cmd
}

func (a *App) listKeysCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List the access keys", Args: exactArgs()}
	f := a.commonFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return a.listKeys(cmd, f) }
	return cmd
}

func (a *App) listKeys(cmd *cobra.Command, f *common) error {
	c, asJSON, err := a.begin(f)
	if err != nil {
		return err
	}
	var out struct {
		AccessKeys []accessKey `json:"accessKeys"`
	}
	if err := c.call(cmd.Context(), "ListAccessKeys", struct{}{}, &out); err != nil {
		return err
	}
	if asJSON {
		keys := []any{}
		for _, k := range out.AccessKeys {
			keys = append(keys, k.wire())
		}
		return printJSON(a.Out, map[string]any{"accessKeys": keys})
	}
	var rows [][]string
	for _, k := range out.AccessKeys {
		t := k.created()
		rows = append(rows, []string{k.AccessKeyID, when(&t), clean(k.Name)})
	}
	return a.screen(a.Out).table([]string{"ACCESS KEY ID", "CREATED", "NAME"}, rows)
}

func (a *App) createKeyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "create NAME",
		Short:             "Make an access key; its secret is shown this one time",
		Args:              exactArgs("NAME"),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	f := a.commonFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, asJSON, err := a.begin(f)
		if err != nil {
			return err
		}
		var out struct {
			AccessKey accessKey `json:"accessKey"`
		}
		if err := c.call(cmd.Context(), "CreateAccessKey", map[string]string{"name": args[0]}, &out); err != nil {
			return err
		}
		if asJSON {
			return printJSON(a.Out, map[string]any{"accessKey": out.AccessKey.wire()})
		}
		fmt.Fprintf(a.Out, "AWS_ACCESS_KEY_ID=%s\nAWS_SECRET_ACCESS_KEY=%s\n", out.AccessKey.AccessKeyID, out.AccessKey.SecretAccessKey)
		fmt.Fprintln(a.Err, "Keep the secret now: it is not shown again.")
		return nil
	}
	return cmd
}

func (a *App) deleteKeyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "delete ACCESS-KEY-ID",
		Short:             "Delete an access key; calls signed with it are refused from then on",
		Args:              exactArgs("ACCESS-KEY-ID"),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	f := a.commonFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, asJSON, err := a.begin(f)
		if err != nil {
			return err
		}
		if err := c.call(cmd.Context(), "DeleteAccessKey", map[string]string{"accessKeyId": args[0]}, &struct{}{}); err != nil {
			return err
		}
		return a.done(asJSON, "Access key %s is deleted.", clean(args[0]))
	}
	return cmd
}
