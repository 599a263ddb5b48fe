package main

import (
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// fetched is what came of a number of requests.
type fetched struct {
	Answers  map[string]int `json:"answers"` // by first line of the body
	Failures map[string]int `json:"failures"`
	Addrs    []string       `json:"addrs"` // what the name stands for
}

// fetch sends POST requests to ?url= one after the other, each on a connection of its own, until ?n= have been answered
// or ?d= (2s) has passed. Nothing of what it does is done a second time if it fails.
func fetch(w http.ResponseWriter, r *http.Request) {
	req, err := http.NewRequestWithContext(r.Context(), http.MethodPost, r.FormValue("url"), nil)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	d, err := time.ParseDuration(r.FormValue("d"))
	if err != nil {
		d = 2 * time.Second
	}
	n, err := strconv.Atoi(r.FormValue("n"))
	if err != nil {
		n = 1 << 30
	}
	out := fetched{Answers: map[string]int{}, Failures: map[string]int{}}
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for end := time.Now().Add(d); n > 0 && time.Now().Before(end) && r.Context().Err() == nil; n-- {
		if line, err := firstLine(client, req); err != nil {
			out.Failures[err.Error()]++
		} else {
			out.Answers[line]++
		}
	}
	out.Addrs, err = net.DefaultResolver.LookupHost(r.Context(), req.URL.Hostname())
	if err != nil {
		out.Failures["resolving: "+err.Error()]++
	}
	writeJSON(w, out)
}

func firstLine(client *http.Client, req *http.Request) (string, error) {
	resp, err := client.Do(req.Clone(req.Context()))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return line, err
}
