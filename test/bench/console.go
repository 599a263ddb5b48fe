package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lightsail"
	"github.com/aws/aws-sdk-go-v2/service/lightsail/types"

	"github.com/trysail/trysail/test/kit"
)

const (
	consoleDomain = "console-bench.test"
	consoleRounds = 50
)

// measureConsole measures the pages of the console: how much comes over the wire for the first one, and how long the server takes.
func measureConsole(ctx context.Context, t *table, images images) (err error) {
	s, err := kit.StartServer(ctx, kit.ServerOptions{Flags: []string{"--domain", consoleDomain}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Remove(context.WithoutCancel(ctx))) }()
	_, port, err := net.SplitHostPort(s.HTTPS)
	if err != nil {
		return err
	}
	ways := map[string]*kit.Console{}
	for name, base := range map[string]string{"at --listen": "http://" + s.API, "at console.<domain>": "https://console." + consoleDomain + ":" + port} {
		if ways[name], err = s.SignIn(ctx, base); err != nil {
			return err
		}
	}
	d, err := newDeployer(ctx, s, images.web)
	if err != nil {
		return err
	}
	if _, err := d.deploy(ctx, 1); err != nil {
		return err
	}
	made := 1
	for _, n := range []int{1, 20, 100} {
		for ; made < n; made++ {
			_, err := d.api.CreateContainerService(ctx, &lightsail.CreateContainerServiceInput{
				ServiceName: aws.String(fmt.Sprintf("console-%d", made)), Power: types.ContainerServicePowerNameNano, Scale: aws.Int32(1),
			})
			if err != nil {
				return err
			}
		}
		for _, name := range []string{"at --listen", "at console.<domain>"} {
			bytes, err := ways[name].Whole(ctx, "/console/")
			if err != nil {
				return err
			}
			if err := pageTime(ctx, t, ways[name], fmt.Sprintf("console, first page %s, services: %d", name, n), "/console/", fmt.Sprintf("%.1f KB with all it needs (aim ≤ 60 KB, ≤ 100 ms)", float64(bytes)/1000)); err != nil {
				return err
			}
		}
	}
	for _, p := range []struct{ what, path string }{
		{"service", ""}, {"deployments", "/deployments"}, {"deploy", "/deploy"}, {"logs", "/logs"}, {"metrics", "/metrics"}, {"tasks", "/tasks"}, {"settings", "/settings"},
	} {
		if err := pageTime(ctx, t, ways["at console.<domain>"], "console, page "+p.what, "/console/services/"+serviceName+p.path, ""); err != nil {
			return err
		}
	}
	return pageTime(ctx, t, ways["at console.<domain>"], "console, audit trail", "/console/audit", "")
}

// pageTime measures how long a page takes, compressed and read to its end.
func pageTime(ctx context.Context, t *table, c *kit.Console, what, path, note string) error {
	var all []time.Duration
	size := 0
	for range consoleRounds {
		p, err := c.Get(ctx, path)
		if err != nil {
			return err
		}
		all, size = append(all, p.Took), p.Bytes
	}
	mid, _, high := median(all)
	t.add(what, fmt.Sprintf("%.1f ms (90 %% ≤ %.1f ms)", milliseconds(mid), milliseconds(high)), fmt.Sprintf("page %.1f KB; %s", float64(size)/1000, note))
	return nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
