package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/lightsail"
	"github.com/aws/aws-sdk-go-v2/service/lightsail/types"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/metrics"
	"github.com/trysail/trysail/test/kit"
)

const (
	metricServices = 100
	metricAnswers  = 500 // how many are timed
)

// measureMetrics fills two weeks of minutes for a hundred services, lets a server serve them, and asks it over HTTP, signed,
// and reads the answers without decoding them.
func measureMetrics(ctx context.Context, t *table, dir string) error {
	s, err := kit.StartServer(ctx, kit.ServerOptions{Flags: []string{"--max-services", fmt.Sprint(metricServices)}})
	if err != nil {
		return err
	}
	defer func() { _ = s.Remove(context.WithoutCancel(ctx)) }()
	client := s.Client()
	var ids, names []string
	for i := range metricServices {
		name := fmt.Sprintf("metrics-%d", i)
		out, err := client.CreateContainerService(ctx, &lightsail.CreateContainerServiceInput{ServiceName: &name, Power: types.ContainerServicePowerNameNano, Scale: aws.Int32(1)})
		if err != nil {
			return err
		}
		arn := aws.ToString(out.ContainerService.Arn)
		names, ids = append(names, name), append(ids, arn[len(arn)-36:])
	}
	idle, err := kit.MemoryOf(s.PID())
	if err != nil {
		return err
	}
	if err := s.Stop(); err != nil {
		return err
	}
	now := time.Now()
	store := filepath.Join(s.DataDir, "metrics")
	if err := fillMetrics(store, ids, now); err != nil {
		return err
	}
	bytes, files := treeSize(store)
	minutes := int64(metricServices * 14 * 24 * 60)
	t.add("metrics, 100 services with 2 weeks of minutes", fmt.Sprintf("%d MB in %d files", bytes/mib, files), fmt.Sprintf("%.1f bytes per minute and service", float64(bytes)/float64(minutes)))
	if err := s.Start(ctx); err != nil {
		return err
	}
	h := &http.Client{}
	defer h.CloseIdleConnections()
	var size int64
	for _, period := range []int32{300, 3600, 86400} {
		var all []time.Duration
		before, err := kit.CPUOf(s.PID())
		if err != nil {
			return err
		}
		for i := range metricAnswers {
			req, err := signedCall(ctx, s, "Lightsail_20161128.GetContainerServiceMetricData", fmt.Sprintf(
				`{"serviceName":%q,"metricName":"CPUUtilization","period":%d,"startTime":%d,"endTime":%d,"statistics":["Average","Maximum"]}`,
				names[i%len(names)], period, now.AddDate(0, 0, -14).Unix(), now.Unix()))
			if err != nil {
				return err
			}
			begin := time.Now()
			n, err := once(h, req)
			all, size = append(all, time.Since(begin)), n
			if err != nil {
				return err
			}
		}
		slices.Sort(all)
		after, err := kit.CPUOf(s.PID())
		if err != nil {
			return err
		}
		// On a machine with other work the waiting is that work's; this is ours.
		note := tenths((after-before)/metricAnswers) + " of CPU in the server for each"
		if period == 300 {
			note += " (aim p99 < 20 ms)"
		}
		t.add(fmt.Sprintf("GetContainerServiceMetricData over 2 weeks, period %d, %d KB: p50, p99", period, size/1024),
			fmt.Sprintf("%s, %s", tenths(all[len(all)/2]), tenths(all[len(all)*99/100])), note)
	}
	after, err := kit.MemoryOf(s.PID())
	if err != nil {
		return err
	}
	t.add("memory of trysail while it answers, over idle", fmt.Sprintf("RSS %+d MB", (after.RSS-idle.RSS)/mib), "")
	return metricWrites(t, dir, ids, now)
}

// signedCall makes a request that is ready to be sent.
func signedCall(ctx context.Context, s *kit.Server, target, body string) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+s.API+"/", strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-amz-json-1.1")
	req.Header.Set("X-Amz-Target", target)
	sum := sha256.Sum256([]byte(body))
	return req, v4.NewSigner().SignHTTP(ctx, aws.Credentials{AccessKeyID: s.Vars["AWS_ACCESS_KEY_ID"], SecretAccessKey: s.Vars["AWS_SECRET_ACCESS_KEY"]},
		req, hex.EncodeToString(sum[:]), "lightsail", s.Vars["AWS_REGION"], time.Now())
}

func tenths(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
}

// fillMetrics writes what a service with some traffic leaves: samples of one pod every ten seconds, a version a day.
func fillMetrics(dir string, ids []string, now time.Time) error {
	s, err := metrics.Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	begin := now.Add(-14 * 24 * time.Hour).Truncate(time.Minute)
	for day := range 14 {
		for minute := range 24 * 60 {
			at := begin.Add(time.Duration(day*24*60+minute) * time.Minute)
			for _, id := range ids {
				s.Add(id, day+1, at, someMinute(minute))
			}
		}
		// All of the day at once: it is the files that count here.
		if err := s.Flush(begin.AddDate(0, 0, day+1)); err != nil {
			return err
		}
	}
	return nil
}

// someMinute has six samples of each share and some hundred requests, more of them at noon.
func someMinute(minute int) *metrics.Values {
	v := &metrics.Values{}
	load := 1 + math.Sin(float64(minute)/(24*60)*2*math.Pi)
	for range 6 {
		v.CPU.Observe(int64(load * 300_000 * rand.Float64()))
		v.Memory.Observe(400_000 + rand.Int64N(1000))
		v.Throttling.Observe(rand.Int64N(20_000))
	}
	for range int(100 * load) {
		v.Requests[2]++
		v.Latency[trysail.HistogramBucket(time.Duration(rand.ExpFloat64()*float64(20*time.Millisecond)))]++
		v.BytesOut += rand.Int64N(20_000)
		v.BytesIn += rand.Int64N(500)
	}
	v.Requests[4] += rand.Int64N(3)
	return v
}

// metricWrites is what the minute of a hundred services costs.
func metricWrites(t *table, dir string, ids []string, now time.Time) error {
	s, err := metrics.Open(filepath.Join(dir, "metrics"), slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	var all []time.Duration
	for i := range 20 {
		at := now.Add(time.Duration(i) * time.Minute)
		for _, id := range ids {
			s.Add(id, 1, at, someMinute(i))
		}
		begin := time.Now()
		if err := s.Flush(at); err != nil {
			return err
		}
		all = append(all, time.Since(begin))
	}
	t.add("a minute of 100 services to the disk, flushed", spread(all), "once a minute")
	return nil
}

// treeSize adds up the files below a directory.
func treeSize(dir string) (bytes int64, files int) {
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			if info, err := os.Stat(path); err == nil {
				bytes += info.Size()
				files++
			}
		}
		return nil
	})
	return bytes, files
}
