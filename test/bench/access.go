package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/trysail/trysail/test/kit"
)

// Each of the two is measured accessRounds times, in turns, for accessWindow at most: many short turns say more than a few
// long ones when the machine has other things to do as well.
const (
	accessRounds = 25
	accessWindow = 2 * time.Second
)

// accessLog measures how many requests a second the edge serves with the access log off and on. wrk, the edge and the
// pod share this machine, so the ratio is what counts.
func accessLog(ctx context.Context, t *table, o options, images images) (err error) {
	s, err := kit.StartServer(ctx, kit.ServerOptions{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Remove(context.WithoutCancel(ctx))) }()
	d, err := newDeployer(ctx, s, images.web)
	if err != nil {
		return err
	}
	if _, err := d.deploy(ctx, 1); err != nil {
		return err
	}
	rates, costs := map[string][]float64{}, map[string][]float64{}
	for range accessRounds {
		for _, state := range []string{"off", "on"} {
			if _, err := s.Run(ctx, "settings", serviceName, "--access-log", state); err != nil {
				return err
			}
			before, err := kit.CPUOf(s.PID())
			if err != nil {
				return err
			}
			rate, requests, err := loadEdge(ctx, s, d.url, min(o.window, accessWindow))
			if err != nil {
				return err
			}
			after, err := kit.CPUOf(s.PID())
			if err != nil {
				return err
			}
			rates[state] = append(rates[state], rate)
			costs[state] = append(costs[state], float64((after-before).Nanoseconds())/1000/requests)
		}
	}
	var ratios []float64
	for i := range rates["on"] {
		ratios = append(ratios, rates["on"][i]/rates["off"][i])
	}
	off, on := middle(rates["off"]), middle(rates["on"])
	t.add("requests/s over HTTPS, access log off", fmt.Sprintf("%.0f", off), "")
	t.add("requests/s over HTTPS, access log on", fmt.Sprintf("%.0f", on),
		fmt.Sprintf("%.2f, in pairs %.2f (%.2f–%.2f) (aim ≥ 0.95)", on/off, middle(ratios), slices.Min(ratios), slices.Max(ratios)))
	// On a busy machine this says more than the rates do.
	t.add("CPU of trysail per request, access log off", fmt.Sprintf("%.1f µs", middle(costs["off"])), "")
	t.add("CPU of trysail per request, access log on", fmt.Sprintf("%.1f µs", middle(costs["on"])),
		fmt.Sprintf("off is %.2f of it", middle(costs["off"])/middle(costs["on"])))
	out, err := s.Run(ctx, "logs", serviceName, "--access", "--filter", `"\"dropped\""`, "-o", "json")
	if err != nil {
		return err
	}
	t.add("lines about dropped lines", strconv.Itoa(len(regexp.MustCompile(`"dropped"`).FindAllString(out, -1))), "(aim 0)")
	return nil
}

var wrkRate = regexp.MustCompile(`Requests/sec:\s+([0-9.]+)`)

var wrkTotal = regexp.MustCompile(`(\d+) requests in `)

// loadEdge asks for the page of the service over 64 connections, and returns the requests per second and in all.
func loadEdge(ctx context.Context, s *kit.Server, url string, window time.Duration) (rate, requests float64, err error) {
	host := regexp.MustCompile(`^https://([^/:]+)`).FindStringSubmatch(url)
	if host == nil {
		return 0, 0, fmt.Errorf("the service's URL is %q", url)
	}
	_, port, err := net.SplitHostPort(s.HTTPS)
	if err != nil {
		return 0, 0, err
	}
	return wrk(ctx, host[1], port, window)
}

// loadAddr is loadEdge for an address that answers for localhost.
func loadAddr(ctx context.Context, addr string, window time.Duration) (rate, requests float64, err error) {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return 0, 0, err
	}
	return wrk(ctx, "localhost", port, window)
}

// wrk loads a port of this machine and returns the requests per second and in all.
func wrk(ctx context.Context, host, port string, window time.Duration) (rate, requests float64, err error) {
	// wrk asks the system for names, and many know localhost only; the edge goes by the Host header.
	cmd := exec.CommandContext(ctx, "wrk", "-t1", "-c64", "-d"+strconv.Itoa(max(int(window.Seconds()), 1))+"s", "-H", "Host: "+host,
		"https://localhost:"+port+"/")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return 0, 0, fmt.Errorf("running wrk: %w\n%s", err, out)
	}
	if regexp.MustCompile(`Non-2xx|Socket errors`).Match(out) {
		return 0, 0, fmt.Errorf("wrk met errors:\n%s", out)
	}
	perSecond, total := wrkRate.FindSubmatch(out), wrkTotal.FindSubmatch(out)
	if perSecond == nil || total == nil {
		return 0, 0, fmt.Errorf("wrk says no rate:\n%s", out)
	}
	rate, err1 := strconv.ParseFloat(string(perSecond[1]), 64)
	requests, err2 := strconv.ParseFloat(string(total[1]), 64)
	return rate, requests, errors.Join(err1, err2)
}

// middle is the median.
func middle(list []float64) float64 {
	list = slices.Sorted(slices.Values(list))
	return list[len(list)/2]
}
