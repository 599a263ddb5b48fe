package cri

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/engine"
)

func TestPullFault_TellsCauses(t *testing.T) {
	const image = "registry.example:5000/shop/web@sha256:00"
	extract := func(why string) error {
		return errors.New(`failed to extract layer (application/vnd.oci.image.layer.v1.tar+gzip sha256:11) to overlayfs as "extract-1-ab sha256:22": ` + why + ": unknown")
	}
	for _, tt := range []struct {
		err  error
		want trysail.DiagnosisCode // empty: not the image's fault
		part string
	}{
		{extract("gzip: invalid checksum"), "IMG-CORRUPT", "cannot be unpacked: gzip: invalid checksum."},
		{extract("write /a/b: no space left on device"), "IMG-DISK", "full"},
		{&os.PathError{Op: "link", Err: unix.ENOSPC}, "IMG-DISK", "full"},
		{errors.New(`wrong diff id "sha256:1" calculated on extraction "sha256:2"`), "IMG-CORRUPT", "wrong diff id"},
		{&corruptError{what: "its manifest makes no sense"}, "IMG-CORRUPT", "its manifest makes no sense."},
		{&trysail.ImageError{Code: "IMG-NET"}, "IMG-NET", ""},
		{errors.New("something new"), "IMG-PULL", "put in place"},
		{fmt.Errorf("x: %w", errdefs.ErrUnavailable), "", ""},
		{fmt.Errorf("commit failed: %w", io.EOF), "", ""},
		{status.Error(codes.Unavailable, "connection refused"), "", ""},
		{context.Canceled, "", ""},
	} {
		err := (&Engine{log: slog.New(slog.DiscardHandler)}).pullFault(t.Context(), image, &pull{}, tt.err)
		ie, ok := errors.AsType[*trysail.ImageError](err)
		switch {
		case tt.want == "" && (ok || !errors.Is(err, engine.ErrUnavailable)):
			t.Errorf("%v: the image is blamed: %v", tt.err, err)
		case tt.want != "" && (!ok || ie.Code != tt.want || !strings.Contains(ie.Message, tt.part)):
			t.Errorf("%v: %+v, want %s", tt.err, ie, tt.want)
		}
	}
}

func TestSlowness_SaysHowFarItCame(t *testing.T) {
	got := slowness("nginx", trysail.Progress{Done: 30 << 20, Total: 120 << 20}, 10*time.Second)
	if want := "Pulling nginx was given up after 10s with 30 of 120 MB, at 3.0 MB/s; it would need 30s more."; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if got := slowness("nginx", trysail.Progress{}, time.Second); got != "Pulling nginx was given up after 1s with 0 of 0 MB." {
		t.Error(got)
	}
}

func TestFindCgroups_KnowsTheVersions(t *testing.T) {
	const (
		v2     = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
		hybrid = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n" +
			"32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n" +
			"33 31 0:30 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n" +
			"34 31 0:31 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids\n" +
			"35 31 0:32 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
	)
	g, err := findCgroups([]byte(v2), "/trysail/x")
	if err != nil || g.version() != 2 || g.file("p", "memory", "memory.max") != "/sys/fs/cgroup/trysail/x/p/memory.max" {
		t.Errorf("v2: %+v, %v", g, err)
	}
	g, err = findCgroups([]byte(hybrid), "/trysail/x")
	if err != nil || g.version() != 1 || g.file("p", "cpuacct", "cpuacct.usage") != "/sys/fs/cgroup/cpu,cpuacct/trysail/x/p/cpuacct.usage" {
		t.Errorf("hybrid: %+v, %v", g, err)
	}
	if dirs := g.dirs(); len(dirs) != 3 {
		t.Errorf("hierarchies %v", dirs)
	}
	if _, err := findCgroups([]byte(strings.ReplaceAll(hybrid, "memory", "freezer")), ""); err == nil {
		t.Error("no memory controller, and no error")
	}
	if _, err := findCgroups(nil, ""); err == nil {
		t.Error("no cgroups at all, and no error")
	}
}

// TestCgroups_WriteV2Limits looks at what is written; the machine that the tests run on may have version 1 alone.
func TestCgroups_WriteV2Limits(t *testing.T) {
	g := &cgroups{v2: t.TempDir(), parent: "/trysail/x"}
	limits := trysail.Limits{MilliCPU: 250, Memory: 512 << 20}
	if err := g.create("p", limits, 100); err != nil {
		t.Fatal(err)
	}
	if err := g.limitCPU("p", limits.MilliCPU); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, f := range []string{
		"cgroup.subtree_control", "trysail/cgroup.subtree_control", "trysail/x/cgroup.subtree_control",
		"trysail/x/p/memory.max", "trysail/x/p/memory.swap.max", "trysail/x/p/pids.max", "trysail/x/p/cpu.max",
	} {
		b, err := os.ReadFile(filepath.Join(g.v2, f))
		if err != nil {
			t.Error(err)
		}
		got[f] = string(b)
	}
	if diff := cmp.Diff(map[string]string{
		"cgroup.subtree_control": "+cpu +memory +pids", "trysail/cgroup.subtree_control": "+cpu +memory +pids", "trysail/x/cgroup.subtree_control": "+cpu +memory +pids",
		"trysail/x/p/memory.max": "536870912", "trysail/x/p/memory.swap.max": "0", "trysail/x/p/pids.max": "100", "trysail/x/p/cpu.max": "25000 100000",
	}, got); diff != "" {
		t.Error(diff)
	}
	for f, content := range map[string]string{
		"cpu.stat": "usage_usec 1500000\nuser_usec 1\n", "memory.current": "9000\n", "memory.stat": "anon 1\ninactive_file 2000\n", "memory.events": "low 0\noom 3\noom_kill 2\n",
	} {
		if err := os.WriteFile(g.file("p", "", f), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cpu, memory, err := g.usage("p")
	if err != nil || cpu != 1500*time.Millisecond || memory != 7000 || g.oomKills("p") != 2 {
		t.Errorf("usage %v, %d, %v; %d OOM kills", cpu, memory, err, g.oomKills("p"))
	}
}

func TestPauseELF_IsAProgramThatWaits(t *testing.T) {
	for arch, machine := range map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64} {
		b, err := pauseELF(arch)
		if err != nil {
			t.Fatal(err)
		}
		f, err := elf.NewFile(strings.NewReader(string(b)))
		if err != nil {
			t.Fatalf("%s: %v", arch, err)
		}
		if f.Machine != machine || len(f.Progs) != 1 || f.Progs[0].Filesz != uint64(len(b)) || f.Entry != f.Progs[0].Vaddr+120 {
			t.Errorf("%s: %+v", arch, f.FileHeader)
		}
	}
	if _, err := pauseELF("mips"); err == nil {
		t.Error("a program for an unknown architecture")
	}
	b, err := pauseELF(runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "pause")
	if err := os.WriteFile(file, b, 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := exec.CommandContext(ctx, file).Run(); err == nil || ctx.Err() == nil {
		t.Errorf("it ended by itself: %v", err)
	}
}

func TestParseResolvConf_LeavesOutLoopback(t *testing.T) {
	got := parseResolvConf("# stub\nnameserver 127.0.0.53\nnameserver 192.0.2.1\nnameserver ::1\nnameserver 2001:db8::1\nsearch a.example b.example\noptions edns0 trust-ad\n")
	if !slices.Equal(got.Servers, []string{"192.0.2.1", "2001:db8::1"}) || !slices.Equal(got.Searches, []string{"a.example", "b.example"}) || !slices.Equal(got.Options, []string{"edns0", "trust-ad"}) {
		t.Errorf("%+v", got)
	}
}

func TestFreeSubnet_AvoidsWhatIsInUse(t *testing.T) {
	cfg := Config{Dir: "/var/lib/one"}
	first, ok := freeSubnet(cfg, nil)
	if !ok || first.Bits() != 20 || !netip.MustParsePrefix("10.92.0.0/12").Overlaps(first) && !netip.MustParsePrefix("10.96.0.0/12").Overlaps(first) {
		t.Fatalf("first choice %v", first)
	}
	if again, _ := freeSubnet(cfg, nil); again != first {
		t.Errorf("another choice at another time: %v", again)
	}
	if second, ok := freeSubnet(cfg, []netip.Prefix{first}); !ok || second.Overlaps(first) {
		t.Errorf("second choice %v", second)
	}
	if p, ok := freeSubnet(cfg, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}); ok {
		t.Errorf("%v, although all is in use", p)
	}
}

func TestChooseSubnet6_IsKept(t *testing.T) {
	cfg := Config{Dir: t.TempDir()}
	first, err := chooseSubnet6(cfg)
	if err != nil || first.Bits() != 64 || !first.Addr().IsPrivate() || first != first.Masked() {
		t.Fatalf("chose %v, %v; want a /64 of addresses for local use", first, err)
	}
	if again, err := chooseSubnet6(cfg); err != nil || again != first {
		t.Errorf("chose %v, %v the second time; want %v", again, err, first)
	}
	if other, err := chooseSubnet6(Config{Dir: t.TempDir()}); err != nil || other == first {
		t.Errorf("another engine has chosen %v, %v", other, err)
	}
	cfg.NoIPv6 = true
	if p, err := chooseSubnet6(cfg); err != nil || p.IsValid() {
		t.Errorf("chose %v, %v although there shall be none", p, err)
	}
}

func TestCheckSubnets_NamesTheOtherNetwork(t *testing.T) {
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	cfg := Config{Bridge: "tstnone0", Subnet: netip.MustParsePrefix("10.92.240.0/20"), Subnet6: netip.MustParsePrefix("fd12:3456:789a:f00d::/64")}
	if err := checkSubnets(t.Context(), cfg, logger); err != nil {
		t.Errorf("a free network: %v", err)
	}
	cfg.Subnet = netip.MustParsePrefix("127.0.0.0/16")
	const want = "the containers' network 127.0.0.0/16 overlaps with 127.0.0.0/8, where this machine is by its interface lo; choose another with --subnet"
	if err := checkSubnets(t.Context(), cfg, logger); err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	if log.Len() > 0 {
		t.Errorf("logged: %s", log.Bytes())
	}
}

func TestParseRoutes(t *testing.T) {
	const text = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n" +
		"eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n" +
		"eth0\t00005C0A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n" +
		"trysail0\t00005D0A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n"
	if got := parseRoutes(text, "trysail0"); len(got) != 1 || got[0] != netip.MustParsePrefix("10.92.0.0/16") {
		t.Errorf("%v", got)
	}
}

func TestReleaseLeases_KeepsThoseInUse(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(dir, "trysail"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "trysail", name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("10.92.0.2", "aaa\r\neth0")
	write("10.92.0.3", "bbb\r\neth0")
	write("last_reserved_ip.0", "10.92.0.3")
	write("lock", "")
	if err := releaseLeases(dir, map[string]bool{"aaa": true}); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Join(dir, "trysail"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if want := []string{"10.92.0.2", "last_reserved_ip.0", "lock"}; !slices.Equal(names, want) {
		t.Errorf("%v, want %v", names, want)
	}
}

func TestJournal_RemembersAndForgets(t *testing.T) {
	dir := t.TempDir()
	bundle := filepath.Join(dir, "bundles", "c1")
	if err := os.MkdirAll(bundle, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "exit.json"), []byte(`{"Timestamp":"2026-11-20T10:00:00Z","Pid":7,"Status":137}`), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "journal.json")
	j, err := openJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(
		j.harvest(filepath.Join(dir, "bundles"), func(id string) bool { return id == "c1" }),
		j.addStartError("p", "web", "no such user"),
		os.RemoveAll(bundle),
	); err != nil {
		t.Fatal(err)
	}
	if j, err = openJournal(path); err != nil {
		t.Fatal(err)
	}
	x, ok := j.exit("c1")
	if want := (exit{At: time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC), Code: 137, OOM: true}); !ok || x != want {
		t.Errorf("exit %+v, %v", x, ok)
	}
	if errs := j.startErrors("p"); errs["web"].Text != "no such user" {
		t.Errorf("start errors %+v", errs)
	}
	if err := j.keep(map[trysail.PodID]bool{"p": true}, map[string]bool{"c1": true}); err != nil {
		t.Fatal(err)
	}
	if _, ok := j.exit("c1"); !ok || len(j.startErrors("p")) != 1 {
		t.Error("keep has dropped what it should keep")
	}
	if err := j.forget("p", []string{"c1"}); err != nil {
		t.Fatal(err)
	}
	if _, ok := j.exit("c1"); ok || len(j.startErrors("p")) > 0 {
		t.Error("forget has not forgotten")
	}
}

func TestDaemonEnv_HoldsNoSecrets(t *testing.T) {
	cfg := Config{Dir: "/d"}
	got := daemonEnv(cfg, []string{"PATH=/bin", "AWS_SECRET_ACCESS_KEY=x", "HTTPS_PROXY=http://p", "TOKEN=y"})
	if want := []string{"HOME=/root", "GOGC=40", "HTTPS_PROXY=http://p", "PATH=/d/bin:/bin"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestTrimDaemonLog_BoundsItsSize(t *testing.T) {
	cfg := Config{Dir: t.TempDir()}
	if err := os.WriteFile(cfg.daemonLog(), make([]byte, maxDaemonLog+10), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := trimDaemonLog(cfg); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]int64{cfg.daemonLog(): 0, cfg.daemonLog() + ".1": maxDaemonLog} {
		if info, err := os.Stat(file); err != nil || info.Size() != want {
			t.Errorf("%s: %v, %v", file, info, err)
		}
	}
}

// manifestOnly supplies a manifest, and fails a test that asks for more.
type manifestOnly struct {
	t        *testing.T
	manifest string
}

func (m manifestOnly) Manifest(context.Context, string) (string, []byte, error) {
	return "application/vnd.oci.image.manifest.v1+json", []byte(m.manifest), nil
}

func (m manifestOnly) Blob(context.Context, string, engine.Descriptor, func(int64)) (engine.File, error) {
	m.t.Error("a part was asked for")
	return engine.File{}, errors.New("no")
}

func TestImporter_RefusesDigestsThatAreNone(t *testing.T) {
	const good = `"sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"`
	for _, bad := range []string{`"x"`, `""`, `"sha256:../../../etc/passwd"`, `"sha256:"`, `"md5:0123456789abcdef0123456789abcdef"`} {
		for _, digests := range [][2]string{{bad, good}, {good, bad}} {
			manifest := `{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","size":2,"digest":` + digests[0] + `},` +
				`"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","size":1,"digest":` + digests[1] + `}]}`
			i := &importer{image: "x", supply: manifestOnly{t, manifest}, progress: &progress{}}
			if err := i.describe(t.Context()); !isCorrupt(err) {
				t.Errorf("%s: got %v, want it called corrupt", digests, err)
			}
		}
	}
}
