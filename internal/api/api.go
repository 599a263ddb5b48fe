package api

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
	"github.com/trysail/trysail/internal/sigv4"
)

// Config is what the API says about the world. The zero value of a field means its default.
type Config struct {
	// Region is echoed in ARNs, locations and URLs; default us-east-1. Callers may sign for any region.
	Region string
	// Account is the 12-digit account number in ARNs; default 000000000000.
	Account string
	// Domain is the base of the services' default domains; default localhost.
	Domain string
	// EdgePort is appended to the host of the services' URLs, such as ":8443"; default none, which means 443.
	EdgePort string
	// ValidationZone is where the records that validate domains point to; default "validations." and Domain.
	ValidationZone string
	// MaxBody is the largest request body in bytes; default 1 MiB.
	MaxBody int64
}

// Control carries out the operations; *control.Control is the one that does. Its methods return errors with a
// *trysail.Error in their chain, whose text the client sees; of any other error it sees only that it was internal.
type Control interface {
	CreateContainerService(context.Context, trysail.Caller, control.CreateContainerServiceInput) (*trysail.Service, error)
	// GetContainerServices returns all services if serviceName is empty, else the one.
	GetContainerServices(ctx context.Context, caller trysail.Caller, serviceName string) ([]trysail.Service, error)
	UpdateContainerService(context.Context, trysail.Caller, control.UpdateContainerServiceInput) (*trysail.Service, error)
	DeleteContainerService(ctx context.Context, caller trysail.Caller, serviceName string) error
	CreateContainerServiceDeployment(ctx context.Context, caller trysail.Caller, serviceName string, in control.DeploymentInput) (*trysail.Service, error)
	// GetContainerServiceDeployments returns the newest version first.
	GetContainerServiceDeployments(ctx context.Context, caller trysail.Caller, serviceName string) ([]trysail.Deployment, error)
	GetContainerServiceMetricData(context.Context, trysail.Caller, control.GetContainerServiceMetricDataInput) (*control.MetricData, error)
	GetServiceMetricData(context.Context, trysail.Caller, control.GetServiceMetricDataInput) (*control.ServiceMetrics, error)
	GetContainerLog(context.Context, trysail.Caller, control.GetContainerLogInput) (*control.LogPage, error)
	// GetPodLog is GetContainerLog for some pods, and says which one wrote a line.
	GetPodLog(context.Context, trysail.Caller, control.GetPodLogInput) (*control.LogPage, error)
	// GetAccessLog takes no container.
	GetAccessLog(context.Context, trysail.Caller, control.GetContainerLogInput) (*control.LogPage, error)
	GetServiceSettings(ctx context.Context, caller trysail.Caller, serviceName string) (trysail.ServiceSettings, error)
	PutServiceSettings(context.Context, trysail.Caller, control.PutServiceSettingsInput) (trysail.ServiceSettings, error)
	TagResource(ctx context.Context, caller trysail.Caller, resourceName string, arn *string, tags []trysail.Tag) ([]trysail.Operation, error)
	UntagResource(ctx context.Context, caller trysail.Caller, resourceName string, arn *string, keys []string) ([]trysail.Operation, error)

	CreateCertificate(context.Context, trysail.Caller, control.CreateCertificateInput) (*control.CertificateOperation, error)
	GetCertificates(context.Context, trysail.Caller, control.GetCertificatesInput) (*control.CertificatePage, error)
	DeleteCertificate(ctx context.Context, caller trysail.Caller, name string) (*control.CertificateOperation, error)
	// GetDomains returns those that lead to one service, or all if serviceName is empty.
	GetDomains(ctx context.Context, caller trysail.Caller, serviceName string) ([]trysail.DomainView, error)
	CheckDomain(ctx context.Context, caller trysail.Caller, name string) (*trysail.DomainView, error)

	GetOperation(ctx context.Context, caller trysail.Caller, id string) (trysail.Operation, error)
	GetOperations(ctx context.Context, caller trysail.Caller, pageToken string) (*control.OperationPage, error)
	GetOperationsForResource(ctx context.Context, caller trysail.Caller, resourceName, pageToken string) (*control.OperationPage, error)

	CreateContainerServiceRegistryLogin(context.Context, trysail.Caller) (*trysail.RegistryLogin, error)
	RegisterContainerImage(context.Context, trysail.Caller, control.RegisterContainerImageInput) (*trysail.RegisteredImage, error)
	// GetContainerImages returns the newest image first.
	GetContainerImages(ctx context.Context, caller trysail.Caller, serviceName string) ([]trysail.RegisteredImage, error)
	DeleteContainerImage(context.Context, trysail.Caller, control.DeleteContainerImageInput) error
	CheckDeployment(context.Context, trysail.Caller, control.CheckDeploymentInput) (*control.Check, error)
	// ListPods returns the newest pod first.
	ListPods(context.Context, trysail.Caller, control.ListPodsInput) ([]trysail.PodRecord, error)
	CreateExecSession(context.Context, trysail.Caller, control.CreateExecSessionInput) (*trysail.ExecSession, error)
	CreateTask(context.Context, trysail.Caller, control.CreateTaskInput) (*trysail.Task, error)
	GetTask(ctx context.Context, caller trysail.Caller, serviceName, id string) (*trysail.Task, error)
	// ListTasks returns the newest task first.
	ListTasks(ctx context.Context, caller trysail.Caller, serviceName string) ([]trysail.Task, error)
	StopTask(ctx context.Context, caller trysail.Caller, serviceName, id string) error
	ListForwards(context.Context, trysail.Caller) ([]control.ServiceForward, error)
	ForwardService(context.Context, trysail.Caller, control.ForwardServiceInput) (*control.ServiceForward, error)
	ExportRows(context.Context, trysail.Caller, control.ExportRowsInput) (*control.MovingRows, error)
	// ImportRows returns how many of the rows have changed something.
	ImportRows(context.Context, trysail.Caller, control.ImportRowsInput) (int, error)
	ListMovingFiles(context.Context, trysail.Caller, control.ListMovingFilesInput) (*control.MovingFilePage, error)
	ReadMovingFile(context.Context, trysail.Caller, control.ReadMovingFileInput) (*control.MovingChunk, error)
	WriteMovingFile(context.Context, trysail.Caller, control.WriteMovingFileInput) error
	ListNodes(context.Context, trysail.Caller) ([]control.Node, error)
	CordonNode(ctx context.Context, caller trysail.Caller, name string) (*control.Node, error)
	UncordonNode(ctx context.Context, caller trysail.Caller, name string) (*control.Node, error)
	ListNodeImages(context.Context, trysail.Caller) (*control.NodeImages, error)
	PutRegistry(context.Context, trysail.Caller, control.PutRegistryInput) (control.Registry, error)
	ListRegistries(context.Context, trysail.Caller) ([]control.Registry, error)
	DeleteRegistry(ctx context.Context, caller trysail.Caller, host string) error

	// GetDeploymentDiagnosis returns that of the newest version that something was wrong with if version is 0.
	GetDeploymentDiagnosis(ctx context.Context, caller trysail.Caller, serviceName string, version int) (*trysail.Diagnosis, error)
	// GetDeploymentRecord returns that of the newest version if version is 0.
	GetDeploymentRecord(ctx context.Context, caller trysail.Caller, serviceName string, version int) (*control.DeploymentRecord, error)
	HoldDeployment(context.Context, trysail.Caller, control.HoldDeploymentInput) error
	CancelDeployment(ctx context.Context, caller trysail.Caller, serviceName string) error
	ListAccessKeys(context.Context, trysail.Caller) ([]control.AccessKey, error)
	CreateAccessKey(context.Context, trysail.Caller, control.CreateAccessKeyInput) (*control.AccessKey, error)
	DeleteAccessKey(ctx context.Context, caller trysail.Caller, id string) error
	// GetAuditTrail returns the newest entry first.
	GetAuditTrail(context.Context, trysail.Caller, control.GetAuditTrailInput) (*control.AuditPage, error)
	// RecordFailure puts a call into the audit trail that never got to its operation, which would have done that itself.
	RecordFailure(ctx context.Context, caller trysail.Caller, operation, resource, exception string, cause error)

	// Identify returns the secret of an access key and who calls with it; ok is false if there is no such key.
	Identify(ctx context.Context, accessKeyID string) (secret string, caller trysail.Caller, ok bool, err error)
}

const (
	contentType    = "application/x-amz-json-1.1"
	defaultMaxBody = 1 << 20
	// signingName is the service name in credential scopes, also for Trysail's own operations.
	signingName = "lightsail"
)

// Handler serves the API at the path "/".
type Handler struct {
	cfg        Config
	control    Control
	log        *slog.Logger
	operations map[string]operation // by X-Amz-Target
}

// New returns the handler. The log gets a line for each call that changes something, for each refused signature and for
// each internal error.
func New(cfg Config, c Control, log *slog.Logger) *Handler {
	setDefault(&cfg.Region, "us-east-1")
	setDefault(&cfg.Account, "000000000000")
	setDefault(&cfg.Domain, "localhost")
	setDefault(&cfg.ValidationZone, "validations."+cfg.Domain)
	setDefault(&cfg.MaxBody, defaultMaxBody)
	h := &Handler{cfg: cfg, control: c, log: log, operations: make(map[string]operation)}
	for _, op := range operations(c, view{cfg}) {
		h.operations[op.target()] = op
	}
	return h
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// call is one request on its way through the handler: what is known so far, for the log.
type call struct {
	id       string // of the request
	op       operation
	key      string // access key id as claimed; not yet verified
	caller   trysail.Caller
	resource string // serviceName, resourceName, …
}

// ServeHTTP answers one call. Every answer, also an error, has a request id.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	c := call{id: newRequestID()}
	w.Header().Set("X-Amzn-Requestid", c.id)
	status := http.StatusOK
	r = r.WithContext(control.WithOrigin(r.Context(), originOf(r, c.id)))
	answer, err := h.answer(w, r, &c)
	if err != nil {
		e := exceptionOf(err)
		h.recordFailure(r.Context(), &c, err, e) //nolint:contextcheck // wanted also when the client has gone
		status = e.status
		answer = e.body()
		w.Header().Set("X-Amzn-Errortype", e.name)
	}
	h.logCall(r, &c, status, err, time.Since(start))
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
	w.WriteHeader(status)
	_, _ = w.Write(answer) // an error means that the client has gone
}

// answer returns the encoded result. A panic in an operation becomes an error: it must not take the server down, and
// the client gets its request id.
func (h *Handler) answer(w http.ResponseWriter, r *http.Request, c *call) (answer []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &panicError{value: p, stack: debug.Stack()}
		}
	}()
	if c.op, err = h.lookUp(r); err != nil {
		return nil, err
	}
	body, err := h.authenticate(w, r, c)
	if err != nil {
		return nil, err
	}
	m, err := parseBody(body)
	if err != nil {
		return nil, err
	}
	c.resource = m.resource()
	result, err := c.op.serve(r.Context(), c.caller, m)
	if err != nil {
		return nil, err
	}
	return encode(result)
}

// lookUp finds the operation of the request.
func (h *Handler) lookUp(r *http.Request) (operation, error) {
	if r.Method != http.MethodPost || r.URL.Path != "/" {
		return operation{}, unknownOperation("This is the Lightsail API: every call is POST / with the operation in the header X-Amz-Target.")
	}
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != contentType {
		return operation{}, malformedRequest("The header Content-Type must be " + contentType + ".")
	}
	targets := r.Header.Values("X-Amz-Target")
	if len(targets) == 1 {
		if op, ok := h.operations[targets[0]]; ok {
			return op, nil
		}
	}
	return operation{}, unknownOperation(fmt.Sprintf("Unknown operation %q.", shorten(strings.Join(targets, ","))))
}

// authenticate verifies the signature and returns the body, for which it had to be read.
func (h *Handler) authenticate(w http.ResponseWriter, r *http.Request, c *call) ([]byte, error) {
	sig, err := sigv4.Parse(r)
	if err != nil {
		return nil, err
	}
	c.key = sig.AccessKeyID
	if err := sig.Check(signingName, time.Now()); err != nil {
		return nil, err
	}
	secret, caller, ok, err := h.control.Identify(r.Context(), sig.AccessKeyID)
	if err != nil {
		return nil, fmt.Errorf("looking up the access key: %w", err)
	}
	if !ok {
		return nil, unknownKey()
	}
	body, err := h.readBody(w, r)
	if err != nil {
		return nil, err
	}
	if err := sig.Verify(r, sha256.Sum256(body), secret); err != nil {
		return nil, err
	}
	c.caller = caller
	return body, nil
}

// readBody reads the body, however it is sent, up to the limit.
func (h *Handler) readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.ContentLength > h.cfg.MaxBody {
		return nil, tooLarge(h.cfg.MaxBody)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, h.cfg.MaxBody))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, tooLarge(h.cfg.MaxBody)
	}
	if err != nil {
		return nil, malformedRequest("The request body did not arrive completely.")
	}
	return body, nil
}

// encode returns v as JSON. Text is left as it is: nobody shows these answers as HTML.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("encoding the answer: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// logCall writes the line of a call that is worth one. No member of a request is logged but the resource's name, and
// never a header.
func (h *Handler) logCall(r *http.Request, c *call, status int, err error, took time.Duration) {
	ctx := r.Context()
	attrs := []slog.Attr{
		slog.String("request_id", c.id), slog.String("operation", c.op.name), slog.Int("status", status), slog.Duration("took", took),
		slog.String("access_key_id", c.key), slog.String("caller", c.caller.Name), slog.String("resource", c.resource),
	}
	if err != nil {
		attrs = append(attrs, slog.String("exception", exceptionOf(err).name), slog.Any("error", err))
	}
	switch {
	case err != nil && ctx.Err() != nil:
		h.log.LogAttrs(ctx, slog.LevelDebug, "client went away", attrs...)
	case status >= http.StatusInternalServerError:
		if p, ok := errors.AsType[*panicError](err); ok {
			attrs = append(attrs, slog.String("stack", string(p.stack)))
		}
		h.log.LogAttrs(ctx, slog.LevelError, "api call failed", attrs...)
	case status == http.StatusForbidden:
		h.log.LogAttrs(ctx, slog.LevelInfo, "api call refused", append(attrs, slog.String("remote", r.RemoteAddr))...)
	case c.op.mutates:
		h.log.LogAttrs(ctx, slog.LevelInfo, "api call", attrs...)
	default:
		h.log.LogAttrs(ctx, slog.LevelDebug, "api call", attrs...)
	}
}

// newRequestID makes a random UUID.
func newRequestID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
