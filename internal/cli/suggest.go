package cli

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lightsail"
	"github.com/aws/smithy-go"
)

// suggestTime bounds how long an error waits for what could have been meant.
const suggestTime = 2 * time.Second

// nextCommands say what to try after an answer of the API. $1 and so on are the groups of the pattern.
func nextCommands() [][2]string {
	return [][2]string{
		{`^Sorry, deployment \d+ is in progress for service "([^"]+)"`, "Watch it with: trysail logs $1 -f, or give it up with: trysail cancel $1"},
		{`^Some names are already in use: ([a-z0-9-]+)$`, "Look at it with: trysail services $1, or change it with: trysail update $1"},
		{`^Service "([^"]+)" is disabled`, "Enable it with: trysail update $1 --enable"},
		{`^Please try again when service "([^"]+)" is done`, "Look at it with: trysail services $1"},
		{`^No (?:pod|version)\b.* of service "([^"]+)" (?:is running|serves)`, "See which there are with: trysail ps $1 --all"},
		{`^Deployment \d+ of service "([^"]+)" (?:not found|has no diagnosis|has not failed)`, "See which there are with: trysail deployments $1"},
		{`^Service "([^"]+)" has no failed deployment`, "See how they went with: trysail deployments $1"},
		{`^Image ":([^".]+)\.[^"]*" not found`, "See which there are with: trysail images $1"},
		{`^Access key "[^"]+" not found`, "See which there are with: trysail keys"},
		{`^Registry "[^"]+" not found`, "See which there are with: trysail registry"},
		{`^Certificate "([^"]+)" is in state`, "See what it waits for with: trysail certs show $1"},
		{`^Service "([^"]+)" has \d+ images`, "See them with: trysail images $1, and delete one with: trysail images delete"},
		{`^The command cannot be started: .*executable file not found`, "Not every image has a shell or the usual programs in it"},
		{`is not authorized to perform`, "See what keys may do with: trysail keys --help; one with the role admin makes others with: trysail keys create"},
	}
}

// nextCommand is what to try after an answer of the API; empty if nothing is known.
func nextCommand(message string) string {
	for _, c := range nextCommands() {
		re := regexp.MustCompile(c[0])
		if m := re.FindStringSubmatchIndex(message); m != nil {
			return string(re.ExpandString(nil, c[1], message, m))
		}
	}
	return ""
}

// suggest finds out what may have been meant by a name that the API does not know, and adds it to the error.
func (a *App) suggest(ctx context.Context, err error) error {
	e, ok := smithyError(err)
	if !ok || a.client == nil || ctx.Err() != nil || e.ErrorCode() != "NotFoundException" {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, suggestTime)
	defer cancel()
	if m := regexp.MustCompile(`^Service "([^"]*)" not found`).FindStringSubmatch(e.ErrorMessage()); m != nil {
		names, listErr := a.client.serviceNames(ctx)
		switch {
		case listErr != nil:
			return err
		case len(names) == 0:
			return WithHint(err, "There is none yet; make it with: trysail create %s", m[1])
		}
		return WithHint(err, "%s", didYouMean(m[1], names, "trysail services"))
	}
	m := regexp.MustCompile(`^Container "([^"]*)" not found in service "([^"]*)"`).FindStringSubmatch(e.ErrorMessage())
	if m == nil {
		return err
	}
	names, listErr := a.client.containers(ctx, m[2], logOptions{})
	if listErr != nil || len(names) == 0 {
		return err
	}
	return WithHint(err, "%s", didYouMean(m[1], names, "trysail deployments "+m[2]))
}

func (c *client) serviceNames(ctx context.Context) (names []string, err error) {
	out, err := c.GetContainerServices(ctx, &lightsail.GetContainerServicesInput{})
	if err != nil {
		return nil, err
	}
	for _, s := range out.ContainerServices {
		names = append(names, aws.ToString(s.ContainerServiceName))
	}
	return names, nil
}

// didYouMean names the nearest of the names; if none is near, all of a few; else the command that lists them.
func didYouMean(name string, names []string, list string) string {
	const few = 6
	near, distance := "", 1+max(1, len(name)/3)
	for _, n := range slices.Sorted(slices.Values(names)) {
		if d := editDistance(name, n); d < distance {
			near, distance = n, d
		}
	}
	switch {
	case near != "":
		return fmt.Sprintf("Did you mean %s?", clean(near))
	case len(names) == 1:
		return fmt.Sprintf("There is only %s", clean(names[0]))
	case len(names) <= few:
		return "There are: " + clean(strings.Join(slices.Sorted(slices.Values(names)), ", "))
	}
	return "See which there are with: " + list
}

// editDistance is how many letters must be put in, left out, replaced or swapped with their neighbour to make b of a.
func editDistance(a, b string) int {
	var before []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		next := make([]int, len(b)+1)
		next[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			next[j] = min(row[j]+1, next[j-1]+1, row[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				next[j] = min(next[j], before[j-2]+1)
			}
		}
		before, row = row, next
	}
	return row[len(b)]
}

// smithyError is the answer of the API inside an error, unless the error has a hint already.
func smithyError(err error) (smithy.APIError, bool) {
	if _, hinted := errors.AsType[*hintError](err); hinted {
		return nil, false
	}
	return errors.AsType[smithy.APIError](err)
}
