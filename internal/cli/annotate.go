package cli

import (
	"fmt"
	"strings"
)

// annotate writes a workflow command of GitHub Actions, which shows the text beside the run. It goes to standard error,
// which the runner reads as well: standard output may be JSON.
func (a *App) annotate(level, title, text string) {
	if a.Getenv("GITHUB_ACTIONS") != "true" {
		return
	}
	property := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C")
	data := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A")
	fmt.Fprintf(a.Err, "::%s title=%s::%s\n", level, property.Replace(clean(title)), data.Replace(clean(text)))
}
