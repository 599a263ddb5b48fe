package store

import (
	"database/sql"
	"encoding/json"
	"errors"

	"github.com/trysail/trysail"
)

// keptEvidence is of how many pods of a version evidence is kept, the newest. A program that crashes for a year shall not
// fill the disk with reports that say the same.
const keptEvidence = 20

func (t *Tx) setPodEvidence(p *trysail.PodRecord) error {
	p.Evidence.Trim()
	text, err := json.Marshal(p.Evidence)
	if err != nil {
		return err
	}
	if err := t.exec("UPDATE pods SET evidence = $1 WHERE id = $2", string(text), p.ID); err != nil {
		return err
	}
	return t.exec(`UPDATE pods SET evidence = '' WHERE service_id = $1 AND version = $2 AND evidence != '' AND id NOT IN
		(SELECT id FROM pods WHERE service_id = $1 AND version = $2 AND evidence != '' ORDER BY stop_at = 0 DESC, stop_at DESC LIMIT $3)`,
		p.ServiceID, p.Version, keptEvidence)
}

// SetDeploymentEvidence keeps what was seen of a version as a whole. It bounds e first. Errors: ErrNotFound.
func (t *Tx) SetDeploymentEvidence(serviceID string, version int, e *trysail.DeploymentEvidence) error {
	e.Trim()
	text, err := json.Marshal(e)
	if err != nil {
		return err
	}
	return t.execOne("UPDATE deployments SET evidence = $1 WHERE service_id = $2 AND version = $3", string(text), serviceID, version)
}

// DeploymentEvidence returns what was seen of a version as a whole, which may be nothing. Errors: ErrNotFound.
func (t *Tx) DeploymentEvidence(serviceID string, version int) (*trysail.DeploymentEvidence, error) {
	var text string
	err := t.row("SELECT evidence FROM deployments WHERE service_id = $1 AND version = $2", serviceID, version).Scan(&text)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrNotFound
	}
	e := &trysail.DeploymentEvidence{}
	if err == nil && text != "" {
		err = json.Unmarshal([]byte(text), e)
	}
	return e, err
}
