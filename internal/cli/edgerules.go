package cli

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// edgeRules is what the edge does for a service beyond Lightsail. In a request, nil members stay as they are.
type edgeRules struct {
	HSTSMaxAge            *int              `json:"hstsMaxAgeSeconds,omitempty"`
	HSTSIncludeSubdomains *bool             `json:"hstsIncludeSubdomains,omitempty"`
	HSTSPreload           *bool             `json:"hstsPreload,omitempty"`
	AllowClients          *[]string         `json:"allowClients,omitempty"`
	DenyClients           *[]string         `json:"denyClients,omitempty"`
	MaxBody               *int64            `json:"maxBodyBytes,omitempty"`
	RequestsPerMinute     *int              `json:"requestsPerMinute,omitempty"`
	RequestBurst          *int              `json:"requestBurst,omitempty"`
	MaxRequests           *int              `json:"maxRequestsAtOnce,omitempty"`
	MaxRequestsPerClient  *int              `json:"maxRequestsAtOncePerClient,omitempty"`
	ErrorPages            map[string]string `json:"errorPages,omitempty"`
}

// edgeRuleFlags are the flags that change edgeRules, as they were given.
type edgeRuleFlags struct {
	hsts, hstsSubdomains, hstsPreload string
	allow, deny                       []string
	maxBody, rate, burst, all, ofOne  string
	errorPages                        []string
	set                               *pflag.FlagSet
}

func (f *edgeRuleFlags) declare(cmd *cobra.Command) {
	f.set = cmd.Flags()
	f.set.StringVar(&f.hsts, "hsts", "", "how long browsers shall use HTTPS only, such as 365d, or off: the Strict-Transport-Security header")
	f.set.StringVar(&f.hstsSubdomains, "hsts-subdomains", "", "on or off: the same for all names below")
	f.set.StringVar(&f.hstsPreload, "hsts-preload", "", "on or off: browsers' makers may build it in; hard to take back")
	f.set.StringSliceVar(&f.allow, "allow", nil, "networks of the clients that may come, such as 192.0.2.0/24,2001:db8::/32, or any")
	f.set.StringSliceVar(&f.deny, "deny", nil, "networks of clients that may not come, or none")
	f.set.StringVar(&f.maxBody, "max-body", "", "largest body of a request, such as 10MB, or off")
	f.set.StringVar(&f.rate, "rate", "", "requests of one client on average, such as 10/s or 30/m, or off")
	f.set.StringVar(&f.burst, "burst", "", "how many of them may come at once, or off: ten seconds' worth")
	f.set.StringVar(&f.all, "max-requests", "", "requests under way at once, open WebSockets too, or off")
	f.set.StringVar(&f.ofOne, "max-requests-per-client", "", "the same of one client, or off")
	f.set.StringArrayVar(&f.errorPages, "error-page", nil, "STATUS=FILE: the edge's page for a status is that of an HTML file; STATUS= takes it away; may be repeated")
	for _, name := range []string{"hsts-subdomains", "hsts-preload"} {
		must(cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions([]string{"on", "off"}, cobra.ShellCompDirectiveNoFileComp)))
	}
}

// read makes the change that the flags ask for. Errors: usage, and files that cannot be read.
func (f *edgeRuleFlags) read() (r edgeRules, err error) {
	given := f.set.Changed
	if r.HSTSIncludeSubdomains, err = parseSwitch("--hsts-subdomains", f.hstsSubdomains, given("hsts-subdomains")); err != nil {
		return r, err
	}
	if r.HSTSPreload, err = parseSwitch("--hsts-preload", f.hstsPreload, given("hsts-preload")); err != nil {
		return r, err
	}
	if given("hsts") {
		age, err := parseAge(f.hsts)
		if err != nil {
			return r, err
		}
		r.HSTSMaxAge = &age
		if age == 0 { // the others would be refused without it
			r.HSTSIncludeSubdomains, r.HSTSPreload = new(false), new(false)
		}
	}
	if given("allow") {
		r.AllowClients = listOr(f.allow, "any")
	}
	if given("deny") {
		r.DenyClients = listOr(f.deny, "none")
	}
	if given("max-body") {
		n, err := parseSize(f.maxBody)
		if err != nil {
			return r, err
		}
		r.MaxBody = &n
	}
	if given("rate") {
		n, err := parseRate(f.rate)
		if err != nil {
			return r, err
		}
		r.RequestsPerMinute = &n
		if n == 0 {
			r.RequestBurst = new(0)
		}
	}
	for _, c := range []struct {
		name, value string
		to          **int
	}{
		{"burst", f.burst, &r.RequestBurst}, {"max-requests", f.all, &r.MaxRequests}, {"max-requests-per-client", f.ofOne, &r.MaxRequestsPerClient},
	} {
		if !given(c.name) {
			continue
		}
		n, err := parseCount("--"+c.name, c.value)
		if err != nil {
			return r, err
		}
		*c.to = &n
	}
	r.ErrorPages, err = readErrorPages(f.errorPages)
	return r, err
}

func (r *edgeRules) isZero() bool {
	return r.HSTSMaxAge == nil && r.HSTSIncludeSubdomains == nil && r.HSTSPreload == nil && r.AllowClients == nil && r.DenyClients == nil && r.MaxBody == nil &&
		r.RequestsPerMinute == nil && r.RequestBurst == nil && r.MaxRequests == nil && r.MaxRequestsPerClient == nil && len(r.ErrorPages) == 0
}

// rows is the table for people. Values are written as the flags take them.
func (r *edgeRules) rows() [][]string {
	hsts, rate := "off", "off"
	if s := valueOf(r.HSTSMaxAge); s > 0 {
		hsts = (time.Duration(s) * time.Second).String()
		if s%86400 == 0 {
			hsts = fmt.Sprintf("%dd", s/86400)
		}
	}
	if n := valueOf(r.RequestsPerMinute); n > 0 {
		rate = fmt.Sprintf("%d/m", n)
		if n%60 == 0 {
			rate = fmt.Sprintf("%d/s", n/60)
		}
	}
	size := "off"
	if n := valueOf(r.MaxBody); n > 0 {
		size = sizeText(n)
	}
	rows := [][]string{
		{"hsts", hsts},
		{"hsts-subdomains", switchText(r.HSTSIncludeSubdomains)},
		{"hsts-preload", switchText(r.HSTSPreload)},
		{"allow", listText(valueOf(r.AllowClients), "any")},
		{"deny", listText(valueOf(r.DenyClients), "none")},
		{"max-body", size},
		{"rate", rate},
		{"burst", countText(r.RequestBurst)},
		{"max-requests", countText(r.MaxRequests)},
		{"max-requests-per-client", countText(r.MaxRequestsPerClient)},
	}
	for _, status := range slices.Sorted(maps.Keys(r.ErrorPages)) {
		rows = append(rows, []string{"error-page", fmt.Sprintf("%s (%d bytes)", clean(status), len(r.ErrorPages[status]))})
	}
	return rows
}

func valueOf[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// listOr is the list of a flag; the word alone stands for an empty one.
func listOr(list []string, word string) *[]string {
	if len(list) == 1 && list[0] == word || list == nil {
		list = []string{}
	}
	return &list
}

func listText(list []string, word string) string {
	if len(list) == 0 {
		return word
	}
	return clean(strings.Join(list, ","))
}

func countText(n *int) string {
	if valueOf(n) == 0 {
		return "off"
	}
	return strconv.Itoa(*n)
}

// parseCount reads a number or off. Errors: usage.
func parseCount(flag, s string) (int, error) {
	if s == "off" {
		return 0, nil
	}
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil || n < 1 {
		return 0, Usagef("%s must be a number such as 20, or off, not %q", flag, s)
	}
	return int(n), nil
}

// parseAge reads a duration in seconds, also in days such as 365d, or off. Errors: usage.
func parseAge(s string) (int, error) {
	if s == "off" {
		return 0, nil
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil && n > 0 {
			return int(n) * 86400, nil
		}
	}
	if d, err := time.ParseDuration(s); err == nil && d >= time.Second {
		return int(d / time.Second), nil
	}
	return 0, Usagef("--hsts must be a time such as 365d or 1h, or off, not %q", s)
}

// parseRate reads requests per minute, or off. Errors: usage.
func parseRate(s string) (int, error) {
	if s == "off" {
		return 0, nil
	}
	number, unit, _ := strings.Cut(s, "/")
	per := map[string]int{"s": 60, "m": 1}[unit]
	n, err := strconv.ParseUint(number, 10, 24)
	if err != nil || n == 0 || per == 0 {
		return 0, Usagef("--rate must be requests per second or minute, such as 10/s or 30/m, or off, not %q", s)
	}
	return int(n) * per, nil
}

// sizeUnits are those of sizes, the largest first.
func sizeUnits() []struct {
	name  string
	bytes int64
} {
	return []struct {
		name  string
		bytes int64
	}{{"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3}, {"B", 1}}
}

// parseSize reads a size in bytes, or off. Errors: usage.
func parseSize(s string) (int64, error) {
	if s == "off" {
		return 0, nil
	}
	end := strings.IndexFunc(s, func(r rune) bool { return !unicode.IsDigit(r) })
	unit := "B"
	number := s
	if end >= 0 {
		number, unit = s[:end], s[end:]
	}
	n, err := strconv.ParseInt(number, 10, 40)
	for _, u := range sizeUnits() {
		if err == nil && n > 0 && unit == u.name && n <= 1<<40/u.bytes {
			return n * u.bytes, nil
		}
	}
	return 0, Usagef("--max-body must be a size such as 10MB, 500KB or 1GB, or off, not %q", s)
}

func sizeText(n int64) string {
	for _, u := range sizeUnits() {
		if n%u.bytes == 0 {
			return strconv.FormatInt(n/u.bytes, 10) + u.name
		}
	}
	return ""
}

// readErrorPages reads the files of --error-page. An empty page takes away the one that is there.
func readErrorPages(list []string) (map[string]string, error) {
	var pages map[string]string
	for _, entry := range list {
		status, file, ok := strings.Cut(entry, "=")
		if !ok || len(status) != 3 {
			return nil, Usagef("--error-page must be STATUS=FILE, such as 503=sorry.html, not %q", entry)
		}
		var page []byte
		if file != "" {
			var err error
			if page, err = os.ReadFile(file); err != nil { //nolint:gosec // the path is the user's
				return nil, fmt.Errorf("reading the page for %s: %w", status, err)
			}
			if len(page) == 0 {
				return nil, Usagef("--error-page %s is an empty file; %s= takes the page away", entry, status)
			}
		}
		if pages == nil {
			pages = map[string]string{}
		}
		pages[status] = string(page)
	}
	return pages, nil
}
