package cli

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// fakeServer answers as Trysail does, from memory. Deployments of it move on by one stage each time they are looked at.
type fakeServer struct {
	*httptest.Server

	mu       sync.Mutex // guards all below
	services map[string]*fakeService
	logs     map[string][]fakeLine // by service/container
	keys     []map[string]any
	certs    []*fakeCert
	task     map[string]any // the newest
	taskLog  []any
	nodes    []*node
	pageSize int
	// before runs at the begin of each call; it may answer the call itself and return true.
	before func(w http.ResponseWriter, operation string) bool
	calls  map[string]int
}

type fakeService struct {
	name, state   string
	disabled      bool
	power         string
	scale         int
	version       int
	current, next map[string]any
	old           []map[string]any
	stages        []func(*fakeService) // what happens at the next looks
	detail        map[string]any
	diagnosis     map[string]any
	settings      map[string]any
	domains       map[string]any // publicDomainNames
}

type fakeLine struct {
	at      float64 // Unix seconds
	message string
}

type fakeError struct {
	status        int
	code, message string
}

func (e *fakeError) Error() string { return e.message }

func newFakeServer(tb testing.TB) *fakeServer {
	tb.Helper()
	f := &fakeServer{
		services: map[string]*fakeService{}, logs: map[string][]fakeLine{}, pageSize: 1000, calls: map[string]int{},
		keys: []map[string]any{{"accessKeyId": "AKADMIN", "name": "admin", "role": "admin", "createdAt": 1.7e9}},
	}
	f.Server = httptest.NewServer(f)
	tb.Cleanup(f.Close)
	return f
}

// do changes the server between calls.
func (f *fakeServer) do(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fakeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/healthz" {
		fmt.Fprintln(w, "ok")
		return
	}
	if strings.HasPrefix(r.URL.Path, "/exec/") {
		serveExec(w, r)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	_, operation, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	f.calls[operation]++
	if f.before != nil && f.before(w, operation) {
		return
	}
	var in map[string]any
	err := json.NewDecoder(r.Body).Decode(&in)
	var out any
	switch {
	case err != nil:
		err = &fakeError{400, "SerializationException", err.Error()}
	case !strings.Contains(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 Credential=AKADMIN/"):
		err = &fakeError{403, "UnrecognizedClientException", "The security token included in the request is invalid."}
	default:
		out, err = f.operation(r.Header.Get("X-Amz-Target"), in)
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	if e, ok := errors.AsType[*fakeError](err); ok {
		w.WriteHeader(e.status)
		out = map[string]any{"__type": e.code, "message": e.message, "code": e.code, "docs": nil, "tip": nil}
	}
	json.NewEncoder(w).Encode(out)
}

func (f *fakeServer) operation(target string, in map[string]any) (any, error) {
	name, _ := in["serviceName"].(string)
	s := f.services[name]
	if s == nil && name != "" && !strings.HasSuffix(target, ".CreateContainerService") {
		return nil, &fakeError{400, "NotFoundException", fmt.Sprintf("Service %q not found.", name)}
	}
	switch target {
	case "Lightsail_20161128.GetContainerServices":
		list := []any{}
		for _, one := range f.sorted() {
			if name == "" || one == s {
				list = append(list, one.look())
			}
		}
		return map[string]any{"containerServices": list}, nil
	case "Lightsail_20161128.CreateContainerService":
		if s != nil {
			return nil, &fakeError{400, "InvalidInputException", "Some names are already in use: " + name}
		}
		s = &fakeService{name: name, state: "PENDING", power: in["power"].(string), scale: int(in["scale"].(float64))}
		s.stages = []func(*fakeService){func(s *fakeService) { s.state = "READY" }}
		f.services[name] = s
		if d, ok := in["deployment"].(map[string]any); ok {
			f.deploy(s, d)
			s.state = "PENDING"
			s.stages = append([]func(*fakeService){func(s *fakeService) { s.state = "DEPLOYING" }}, s.stages...)
		}
		return map[string]any{"containerService": s.wire()}, nil
	case "Lightsail_20161128.UpdateContainerService":
		s.state = "UPDATING"
		if v, ok := in["scale"].(float64); ok {
			s.scale = int(v)
		}
		if v, ok := in["power"].(string); ok {
			s.power = v
		}
		if v, ok := in["publicDomainNames"].(map[string]any); ok {
			if s.domains == nil {
				s.domains = map[string]any{}
			}
			maps.Copy(s.domains, v)
		}
		s.stages = []func(*fakeService){func(s *fakeService) { s.state = "RUNNING" }}
		return map[string]any{"containerService": s.wire()}, nil
	case "Lightsail_20161128.DeleteContainerService":
		s.state = "DELETING"
		s.stages = []func(*fakeService){func(*fakeService) {}, func(s *fakeService) { delete(f.services, s.name) }}
		return map[string]any{}, nil
	case "Lightsail_20161128.CreateContainerServiceDeployment":
		return f.deploy(s, in)
	case "Lightsail_20161128.GetContainerServiceDeployments":
		list := []any{}
		for _, d := range []map[string]any{s.next, s.current} {
			if d != nil {
				list = append(list, d)
			}
		}
		for _, d := range slices.Backward(s.old) {
			list = append(list, d)
		}
		return map[string]any{"deployments": list}, nil
	case "Lightsail_20161128.GetContainerLog":
		return f.readLog(name, in)
	case "Trysail_20261120.GetDeploymentRecord":
		return map[string]any{
			"serviceName": name, "diagnosis": s.diagnosis, "pods": []any{}, "digests": map[string]any{"nginx": "sha256:old", "busybox": "sha256:bb", ":web.www.latest": "sha256:w1", ":web.gone.latest": "sha256:g1"},
			"storedImages": map[string]any{":web.www.latest": ":web.www.1"},
		}, nil
	case "Trysail_20261120.CheckDeployment":
		// The tag of nginx has been moved since.
		return map[string]any{"problems": []any{}, "warnings": []any{}, "images": []any{
			map[string]any{"container": "app", "image": "nginx", "digest": "sha256:new"}, map[string]any{"container": "side", "image": "busybox", "digest": "sha256:bb"},
		}}, nil
	case "Trysail_20261120.CreateExecSession":
		command, _ := json.Marshal(in["command"])
		path := "/exec/" + base64.RawURLEncoding.EncodeToString(command)
		if in["tty"] == true {
			path += "/tty"
		}
		return map[string]any{"path": path, "protocol": "v1.exec.trysail", "podId": "web-v1-0-a", "containerName": "app", "expiresAt": 1.8e9}, nil
	case "Trysail_20261120.ListNodes":
		f.moveOn()
		return map[string]any{"nodes": f.nodes}, nil
	case "Trysail_20261120.CordonNode", "Trysail_20261120.UncordonNode":
		return f.cordon(in["nodeName"].(string), strings.HasSuffix(target, ".CordonNode"))
	case "Trysail_20261120.ListPods":
		return map[string]any{"pods": s.pods()}, nil
	case "Trysail_20261120.GetAuditTrail":
		return f.auditTrail(in), nil
	case "Trysail_20261120.CreateTask":
		f.task = map[string]any{"taskId": "web-task-1", "version": 1, "containerName": "app", "command": in["command"], "state": "RUNNING", "createdAt": 1.7e9}
		return map[string]any{"task": f.task}, nil
	case "Trysail_20261120.GetTask":
		return map[string]any{"task": f.nextTask()}, nil
	case "Trysail_20261120.GetPodLog":
		if in["podId"] == "web-task-1" {
			return map[string]any{"logEvents": f.taskLog}, nil
		}
		return f.readPodLog(name, in)
	case "Trysail_20261120.GetAccessLog":
		in["containerName"] = "ACCESS"
		page, err := f.readLog(name, in)
		if out, ok := page.(map[string]any); ok && in["filterPattern"] == "200" {
			out["missingServers"] = []any{"n2 (10.0.0.2:4500)"}
		}
		return page, err
	case "Trysail_20261120.PutServiceSettings":
		if s.settings == nil {
			s.settings = map[string]any{}
		}
		maps.Copy(s.settings, in["settings"].(map[string]any))
		return map[string]any{"settings": s.settings}, nil
	case "Trysail_20261120.GetServiceSettings":
		return map[string]any{"settings": s.settings}, nil
	case "Trysail_20261120.GetDeploymentDiagnosis":
		if s.diagnosis == nil {
			return nil, &fakeError{400, "NotFoundException", "No deployment of service \"" + name + "\" has failed."}
		}
		return map[string]any{"diagnosis": s.diagnosis}, nil
	case "Trysail_20261120.GetServiceMetricData":
		point := func(name, unit, statistic string, value float64) map[string]any {
			return map[string]any{"metricName": name, "unit": unit, "metricData": []any{map[string]any{"timestamp": 1.7e9, "statistics": map[string]any{statistic: value}}}}
		}
		all := []any{point("CPUUtilization", "Percent", "Average", 12.5), point("Requests", "Count", "Sum", 7), point("Restarts", "Count", "Sum", 0)}
		if in["metricNames"] != nil {
			all = all[1:]
		}
		missing := []any{}
		if in["version"] == 7.0 {
			missing = append(missing, "n2 (10.0.0.2:4500)")
		}
		return map[string]any{
			"missingServers": missing, "startTime": 1.7e9, "endTime": 1.7e9 + 60, "period": in["period"], "metrics": all,
			"deployments": []any{map[string]any{"version": 1, "state": "ACTIVE", "createdAt": 1.7e9 + 30}},
		}, nil
	case "Trysail_20261120.ListAccessKeys":
		return map[string]any{"accessKeys": f.keys}, nil
	case "Trysail_20261120.CreateAccessKey":
		k := map[string]any{"accessKeyId": "AKNEW", "name": in["name"], "role": in["role"], "serviceNames": in["serviceNames"], "createdAt": 1.8e9}
		f.keys = append(f.keys, k)
		return map[string]any{"accessKey": map[string]any{"accessKeyId": "AKNEW", "secretAccessKey": "s3cret", "name": in["name"], "createdAt": 1.8e9}}, nil
	case "Trysail_20261120.DeleteAccessKey":
		f.keys = slices.DeleteFunc(f.keys, func(k map[string]any) bool { return k["accessKeyId"] == in["accessKeyId"] })
		return map[string]any{}, nil
	}
	return f.domainOperation(target, in)
}

// deploy makes a deployment that becomes ACTIVE, or FAILED if its image is named broken.
func (f *fakeServer) deploy(s *fakeService, in map[string]any) (any, error) {
	if s.next != nil {
		return nil, &fakeError{400, "InvalidInputException", fmt.Sprintf("Sorry, deployment %d is in progress for service %q. Please wait for it to complete before trying again.", s.version, s.name)}
	}
	s.version++
	s.state = "DEPLOYING"
	s.detail = map[string]any{"code": "CREATING_DEPLOYMENT", "message": ""}
	now := float64(time.Now().UnixMilli()) / 1000
	s.next = map[string]any{"version": s.version, "state": "ACTIVATING", "containers": in["containers"], "publicEndpoint": in["publicEndpoint"], "createdAt": now}
	broken := false
	say := func(text string) {
		for name := range in["containers"].(map[string]any) {
			key := s.name + "/" + name
			f.logs[key] = append(f.logs[key], fakeLine{float64(time.Now().UnixMilli()) / 1000, fmt.Sprintf("[deployment:%d] %s", s.version, text)})
		}
	}
	for _, c := range in["containers"].(map[string]any) {
		broken = broken || c.(map[string]any)["image"] == "broken"
	}
	say("Creating your deployment")
	s.stages = []func(*fakeService){
		func(*fakeService) { say("Started 1 new node") },
		func(s *fakeService) {
			s.detail = map[string]any{"code": "EVALUATING_HEALTH_CHECK", "message": "Waiting for 1 of 1 nodes\x1b[2J."}
		},
	}
	if broken {
		s.stages = append(s.stages, func(s *fakeService) {
			say("Canceled")
			s.next["state"] = "FAILED"
			s.old, s.next, s.detail, s.state = append(s.old, s.next), nil, nil, "READY"
			if s.current != nil {
				s.state = "RUNNING"
			}
			s.diagnosis = map[string]any{
				"version": s.version, "code": "NET-LOOPBACK", "confidence": "certain", "containerName": "app",
				"summary": "It listens on 127.0.0.1:8080 only, where nobody else reaches it.", "fix": "Listen on 0.0.0.0:8080.",
				"evidence": []any{map[string]any{"kind": "socket", "text": "127.0.0.1:8080\nsecond line"}},
				"diff":     []any{map[string]any{"field": "containers.app.image", "before": "nginx", "after": "broken"}},
			}
		})
	} else {
		s.stages = append(s.stages, func(s *fakeService) {
			say("Reached a steady state")
			s.next["state"] = "ACTIVE"
			if s.current != nil {
				s.current["state"] = "INACTIVE"
				s.old = append(s.old, s.current)
			}
			s.current, s.next, s.detail, s.state = s.next, nil, nil, "RUNNING"
		})
	}
	return map[string]any{"containerService": s.wire()}, nil
}

func (f *fakeServer) readLog(service string, in map[string]any) (any, error) {
	lines, ok := f.logs[service+"/"+in["containerName"].(string)]
	if !ok {
		return nil, &fakeError{400, "NotFoundException", fmt.Sprintf("Container %q not found.", in["containerName"])}
	}
	var hits []fakeLine
	for _, l := range lines {
		if start, ok := in["startTime"].(float64); ok && l.at < start {
			continue
		}
		if end, ok := in["endTime"].(float64); ok && l.at > end {
			continue
		}
		if p, ok := in["filterPattern"].(string); ok && !strings.HasPrefix(p, "?") && !strings.Contains(l.message, p) {
			continue
		}
		hits = append(hits, l)
	}
	slices.SortStableFunc(hits, func(a, b fakeLine) int {
		if a.at < b.at {
			return -1
		} else if a.at > b.at {
			return 1
		}
		return 0
	})
	first := 0
	if token, ok := in["pageToken"].(string); ok {
		fmt.Sscan(token, &first)
	}
	out := map[string]any{}
	last := min(first+f.pageSize, len(hits))
	if last < len(hits) {
		out["nextPageToken"] = fmt.Sprint(last)
	}
	events := []any{}
	for _, l := range hits[min(first, last):last] {
		events = append(events, map[string]any{"createdAt": l.at, "message": l.message})
	}
	out["logEvents"] = events
	return out, nil
}

// readPodLog says of all lines that a pod of version 1 wrote them, except for those of the service itself, and that pods
// of version 2 wrote those with "second" in them.
func (f *fakeServer) readPodLog(service string, in map[string]any) (any, error) {
	out, err := f.readLog(service, in)
	if err != nil {
		return nil, err
	}
	events := []any{}
	for _, e := range out.(map[string]any)["logEvents"].([]any) {
		e := e.(map[string]any)
		message := e["message"].(string)
		version := 1
		if strings.Contains(message, "second") {
			version = 2
		}
		if !strings.HasPrefix(message, "[") {
			e["podId"], e["stream"], e["version"] = fmt.Sprint("pod", version), "stdout", version
		}
		if want, ok := in["version"].(float64); ok && int(want) != version || in["previous"] == true && version != 1 {
			continue
		}
		events = append(events, e)
	}
	out.(map[string]any)["logEvents"] = events
	return out, nil
}

func (f *fakeServer) sorted() []*fakeService {
	var list []*fakeService
	for _, s := range f.services {
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b *fakeService) int { return strings.Compare(a.name, b.name) })
	return list
}

// look shows the service and lets it move on.
func (s *fakeService) look() any {
	out := s.wire()
	if len(s.stages) > 0 {
		stage := s.stages[0]
		s.stages = s.stages[1:]
		stage(s)
	}
	return out
}

func (s *fakeService) wire() map[string]any {
	out := map[string]any{
		"containerServiceName": s.name, "state": s.state, "power": s.power, "scale": s.scale, "isDisabled": s.disabled,
		"createdAt": 1.7e9, "tags": []any{}, "url": "https://" + s.name + ".0123456789abc.us-east-1.cs.localhost/",
	}
	for key, v := range map[string]map[string]any{"currentDeployment": s.current, "nextDeployment": s.next, "stateDetail": s.detail, "publicDomainNames": s.domains} {
		if v != nil {
			out[key] = maps.Clone(v)
		}
	}
	return out
}

// auditTrail has four entries, and two on a page.
func (f *fakeServer) auditTrail(in map[string]any) any {
	entry := func(operation, service, outcome, code string) map[string]any {
		return map[string]any{
			"time": 1.7e9, "accessKeyId": "AKADMIN", "caller": "admin", "role": "admin", "operation": operation, "serviceName": service,
			"outcome": outcome, "errorCode": code, "requestId": "r1", "sourceAddress": "192.0.2.7", "userAgent": "aws-cli",
		}
	}
	deployed := entry("CreateContainerServiceDeployment", "web", "success", "")
	deployed["client"], deployed["details"] = "AWS CLI", map[string]string{"version": "3", "message": ""}
	if in["accessKey"] == "ci" && in["outcome"] == "failure" {
		stranger := entry("TagResource", "", "unauthenticated", "InvalidSignatureException")
		stranger["caller"], stranger["role"] = "", ""
		return map[string]any{"events": []any{stranger}}
	}
	all := []any{
		deployed, entry("DeleteContainerService", "web", "failure", "AccessDeniedException"), entry("CreateContainerService", "web", "success", ""),
		entry("CreateAccessKey", "", "success", ""),
	}
	if name, ok := in["serviceName"]; ok {
		all = slices.DeleteFunc(all, func(e any) bool { return e.(map[string]any)["serviceName"] != name })
	}
	first := 0
	if token, ok := in["pageToken"].(string); ok {
		fmt.Sscan(token, &first)
	}
	last := min(first+2, first+int(in["limit"].(float64)), len(all))
	out := map[string]any{"events": all[first:last]}
	if last < len(all) {
		out["nextPageToken"] = fmt.Sprint(last)
	}
	return out
}

// serveExec is a container that knows four commands: cat, size (of the terminal), fail, and any other, which it repeats.
func serveExec(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"v1.exec.trysail"}})
	if err != nil {
		return
	}
	defer conn.CloseNow()
	parts := strings.Split(r.URL.Path, "/")
	text, _ := base64.RawURLEncoding.DecodeString(parts[2])
	var command []string
	json.Unmarshal(text, &command)
	say := func(channel byte, text string) {
		conn.Write(r.Context(), websocket.MessageBinary, append([]byte{channel}, text...))
	}
	end := func(text string) {
		say(channelEnd, text)
		conn.Close(websocket.StatusNormalClosure, "")
	}
	switch command[0] {
	case "cat", "size":
		for {
			_, message, err := conn.Read(r.Context())
			switch {
			case err != nil:
				return
			case command[0] == "size" && message[0] == channelResize:
				say(channelStdout, string(message[1:])+"\r\n")
				end(`{"exitCode":0}`)
				return
			case command[0] == "cat" && message[0] == channelStdin && len(message) > 1:
				say(channelStdout, string(message[1:]))
			case command[0] == "cat" && message[0] == channelStdin:
				end(`{"exitCode":0}`)
				return
			}
		}
	case "fail":
		say(channelStderr, "it does not work\n")
		end(`{"exitCode":42}`)
	case "nope":
		end(`{"error":"The command cannot be started: nope is not there"}`)
	case "cut":
		return
	default:
		say(channelStdout, fmt.Sprintf("%q tty=%v\n", command, len(parts) > 3))
		end(`{"exitCode":0}`)
	}
}

// nextTask lets the task write its lines, and then end.
func (f *fakeServer) nextTask() map[string]any {
	shown := maps.Clone(f.task)
	command := fmt.Sprintf("%q", f.task["command"])
	if f.task["seen"] == nil {
		f.task["seen"] = true
		f.taskLog = []any{
			map[string]any{"createdAt": 1.7e9, "message": command + " out", "podId": "web-task-1", "version": 1, "stream": "stdout"},
			map[string]any{"createdAt": 1.7e9, "message": "err", "podId": "web-task-1", "version": 1, "stream": "stderr"},
		}
		return shown
	}
	shown["state"], shown["endedAt"], shown["exitCode"] = "ENDED", 1.7e9, 0
	switch {
	case strings.Contains(command, "fail"):
		shown["exitCode"] = 9
	case strings.Contains(command, "late"):
		delete(shown, "exitCode")
		shown["reason"] = "It was stopped, as its time of 1h0m0s was over."
	}
	return shown
}

// pods are one of the version that serves, and one of the next that is not healthy yet.
func (s *fakeService) pods() []any {
	pods := []any{}
	add := func(d map[string]any, state string) {
		if d != nil {
			pods = append(pods, map[string]any{"id": fmt.Sprintf("%s-v%v-0-a", s.name, d["version"]), "version": d["version"], "state": state, "createdAt": 1.7e9})
		}
	}
	add(s.current, "HEALTHY")
	add(s.next, "STARTING")
	return pods
}
