package api

import (
	"encoding/json"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
)

// recordedPod is a pod with what was seen of it.
type recordedPod struct {
	pod
	Evidence *trysail.PodEvidence `json:"evidence,omitempty"`
}

// recordResult shows what is kept of a version. The values of environment variables are nowhere in it.
func recordResult(r *control.DeploymentRecord) (json.RawMessage, error) {
	shown := newDeployment(&r.Deployment)
	for name, c := range shown.Containers {
		hidden := map[string]string{}
		for variable := range c.Environment {
			hidden[variable] = "***"
		}
		c.Environment = hidden
		shown.Containers[name] = c
	}
	pods := make([]recordedPod, len(r.Pods))
	for i, p := range r.Pods {
		pods[i] = recordedPod{newPod(p), p.Evidence}
	}
	text, err := json.Marshal(map[string]any{
		"serviceName": r.Service.Name, "power": r.Service.Power, "scale": r.Service.Scale, "deployment": shown, "digests": r.Deployment.Digests, "storedImages": r.Stored,
		"diagnosis": r.Diagnosis, "evidence": r.Evidence, "pods": pods,
	})
	if err != nil {
		return nil, err
	}
	masked, err := trysail.NewMasker(&r.Deployment).JSON(text)
	return json.RawMessage(masked), err
}
