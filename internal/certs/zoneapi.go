package certs

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// maxAnswer bounds what a provider's API may answer.
const maxAnswer = 1 << 20

// callAPI makes one call with JSON both ways. token is not part of any error.
func callAPI(ctx context.Context, client *http.Client, method, address, token string, in, out any) (status int, err error) {
	var body io.Reader = http.NoBody
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return 0, err
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, address, body)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return resp.StatusCode, err
	}
	if resp.StatusCode >= 300 {
		return resp.StatusCode, fmt.Errorf("%s answers %s: %.300s", req.URL.Host, resp.Status, answer)
	}
	if out != nil && len(answer) > 0 {
		return resp.StatusCode, json.Unmarshal(answer, out)
	}
	return resp.StatusCode, nil
}

// parents lists a domain and those that it is part of, but for the top-level one: one of them is a zone.
func parents(domain string) (list []string) {
	for strings.Contains(domain, ".") {
		list = append(list, domain)
		_, domain, _ = strings.Cut(domain, ".")
	}
	return list
}

// cloudflare writes through Cloudflare's API, version 4, with a token that may edit the zone's DNS.
type cloudflare struct {
	zone, token, endpoint string
	client                *http.Client
}

type cloudflareList struct {
	Result []struct {
		ID      string `json:"id"`
		Name    string `json:"name"`
		Content string `json:"content"`
	} `json:"result"`
}

func (c *cloudflare) call(ctx context.Context, method, path string, in, out any) error {
	_, err := callAPI(ctx, c.client, method, c.endpoint+path, c.token, in, out)
	return err
}

func (c *cloudflare) zoneID(ctx context.Context) (string, error) {
	for _, domain := range parents(c.zone) {
		var list cloudflareList
		if err := c.call(ctx, http.MethodGet, "/zones?name="+url.QueryEscape(domain), nil, &list); err != nil {
			return "", err
		}
		if len(list.Result) > 0 {
			return list.Result[0].ID, nil
		}
	}
	return "", fmt.Errorf("cloudflare has no zone for %s that the token may see", c.zone)
}

func (c *cloudflare) SetTXT(ctx context.Context, name, value string) error {
	zone, err := c.zoneID(ctx)
	if err != nil {
		return err
	}
	record := map[string]any{"type": "TXT", "name": name, "content": strconv.Quote(value), "ttl": recordTTL}
	return c.call(ctx, http.MethodPost, "/zones/"+zone+"/dns_records", record, nil)
}

func (c *cloudflare) DeleteTXT(ctx context.Context, name, value string) error {
	zone, err := c.zoneID(ctx)
	if err != nil {
		return err
	}
	var list cloudflareList
	if err := c.call(ctx, http.MethodGet, "/zones/"+zone+"/dns_records?type=TXT&name="+url.QueryEscape(name), nil, &list); err != nil {
		return err
	}
	for _, r := range list.Result {
		if strings.Trim(r.Content, `"`) != value {
			continue
		}
		if err := c.call(ctx, http.MethodDelete, "/zones/"+zone+"/dns_records/"+r.ID, nil, nil); err != nil {
			return err
		}
	}
	return nil
}

// hetzner writes through the DNS part of Hetzner's Cloud API, with a token that may read and write.
type hetzner struct {
	zone, token, endpoint string
	client                *http.Client
}

func (h *hetzner) call(ctx context.Context, method, path string, in, out any) (int, error) {
	return callAPI(ctx, h.client, method, h.endpoint+path, h.token, in, out)
}

// recordSet returns the path of the TXT records of a name.
func (h *hetzner) recordSet(ctx context.Context, name string) (string, error) {
	for _, domain := range parents(h.zone) {
		status, err := h.call(ctx, http.MethodGet, "/zones/"+domain, nil, nil)
		if err == nil {
			label := strings.TrimSuffix(name, "."+domain)
			return "/zones/" + domain + "/rrsets/" + label + "/TXT", nil
		}
		if status != http.StatusNotFound {
			return "", err
		}
	}
	return "", fmt.Errorf("hetzner has no zone for %s that the token may see", h.zone)
}

func (h *hetzner) SetTXT(ctx context.Context, name, value string) error {
	return h.act(ctx, name, "add_records", map[string]any{"ttl": recordTTL, "records": []map[string]string{{"value": strconv.Quote(value)}}})
}

func (h *hetzner) DeleteTXT(ctx context.Context, name, value string) error {
	return h.act(ctx, name, "remove_records", map[string]any{"records": []map[string]string{{"value": strconv.Quote(value)}}})
}

func (h *hetzner) act(ctx context.Context, name, action string, in any) error {
	set, err := h.recordSet(ctx, name)
	if err != nil {
		return err
	}
	status, err := h.call(ctx, http.MethodPost, set+"/actions/"+action, in, nil)
	if action == "remove_records" && status == http.StatusNotFound {
		return nil
	}
	return err
}
