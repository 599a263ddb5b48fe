package cri_test

import (
	"testing"

	"github.com/trysail/trysail/internal/engine"
	"github.com/trysail/trysail/internal/engine/enginetest"
)

func TestEngine_Conforms(t *testing.T) {
	images := serveImages(t)
	r := newRig(t, nil)
	enginetest.Run(t, func(t *testing.T) enginetest.Fixture {
		return enginetest.Fixture{
			Engine: r.engine, Image: images.program, Missing: images.missing, Broken: images.broken,
			Reopen: func(*testing.T) engine.Engine {
				r.close()
				return r.open()
			},
		}
	})
}
