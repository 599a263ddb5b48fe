// Program is what the tests of the engine run in containers.
package main

import (
	"os"

	"github.com/trysail/trysail/internal/engine/enginetest"
)

func main() { os.Exit(enginetest.Main()) }
