package issuer

import (
	"context"
	"fmt"
	"net/http"
	"path"
	"strings"
	"sync"
	"time"
)

// Knobs make a fake Google slow, wrong or broken on purpose. The zero value
// changes nothing.
type Knobs struct {
	// ClockOffset is how far the clock of the fake is ahead of ours.
	ClockOffset time.Duration

	// ExpiresIn, if not nil, is what the answers with access tokens say about
	// their life, in seconds; -1 leaves it out. A token also dies then.
	ExpiresIn *int

	// Faults happen to requests. Of those that match and are not used up, the
	// first does.
	Faults []Fault
}

// A Fault is what happens to a request instead of, or before, the right
// answer.
type Fault struct {
	// Path of the request, as for path.Match: /token, /v1/*,
	// /v1/projects/-/serviceAccounts/*:signBlob. Empty: every path.
	Path string

	// Times is how many requests it happens to; 0: all.
	Times int

	// Quota is how many requests are let off in each window of the length Per,
	// which the first of them opens; it happens to the others. 0: none.
	Quota int
	Per   time.Duration

	// Delay passes before anything else is done.
	Delay time.Duration

	// Status and Body are the answer; with neither, the right one is given. A
	// status of 400 or more alone gets Google's error for it, a body alone the
	// status 200.
	Status int
	Body   string

	// Header goes into the answer, for example Retry-After or Location.
	Header map[string]string
}

// knobs are the Knobs in use. The zero value is ready.
type knobs struct {
	mu    sync.Mutex
	set   Knobs
	state []faultState // of each fault
}

type faultState struct {
	used   int       // how often it has happened
	opened time.Time // the window of the quota
	let    int       // let off in it
}

// Check reports what is wrong with the knobs.
func (k Knobs) Check() error {
	for _, f := range k.Faults {
		if _, err := path.Match(f.Path, "/"); err != nil {
			return fmt.Errorf("fault of path %q: %w; a path is /token or a pattern such as /v1/*", f.Path, err)
		}
		if f.Status != 0 && (f.Status < 200 || f.Status > 599) {
			return fmt.Errorf("fault of path %q: status %d is not between 200 and 599", f.Path, f.Status)
		}
		if f.Quota < 0 || f.Per < 0 || (f.Quota == 0) != (f.Per == 0) {
			return fmt.Errorf("fault of path %q: a quota is a number of requests per time, such as quota 100 and per 1m", f.Path)
		}
	}
	return nil
}

// SetKnobs replaces all knobs; faults are counted anew. It may be called while
// the fake is in use, and changes nothing if Check finds a fault.
func (i *Issuer) SetKnobs(k Knobs) error {
	if err := k.Check(); err != nil {
		return err
	}
	i.knobs.mu.Lock()
	defer i.knobs.mu.Unlock()
	i.knobs.set, i.knobs.state = k, make([]faultState, len(k.Faults))
	return nil
}

// now is the time by the clock of the issuer.
func (i *Issuer) now() time.Time {
	i.knobs.mu.Lock()
	defer i.knobs.mu.Unlock()
	return time.Now().Add(i.knobs.set.ClockOffset)
}

// life is how long an access token is to live that should live for so long.
func (i *Issuer) life(due time.Duration) time.Duration {
	i.knobs.mu.Lock()
	defer i.knobs.mu.Unlock()
	if s := i.knobs.set.ExpiresIn; s != nil && *s >= 0 {
		return time.Duration(*s) * time.Second
	}
	return due
}

// tellsExpiry reports whether answers say how long a token lives.
func (i *Issuer) tellsExpiry() bool {
	i.knobs.mu.Lock()
	defer i.knobs.mu.Unlock()
	return i.knobs.set.ExpiresIn == nil || *i.knobs.set.ExpiresIn >= 0
}

// fault takes the fault that is due for a path.
func (k *knobs) fault(target string) (Fault, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for n, f := range k.set.Faults {
		state := &k.state[n]
		if ok, _ := path.Match(f.Path, target); !ok && f.Path != "" || f.Times > 0 && state.used >= f.Times || state.letsOff(f) {
			continue
		}
		state.used++
		return f, true
	}
	return Fault{}, false
}

// letsOff reports whether a request is within the quota, and counts it.
func (s *faultState) letsOff(f Fault) bool {
	if now := time.Now(); now.Sub(s.opened) >= f.Per {
		s.opened, s.let = now, 0
	}
	if s.let >= f.Quota {
		return false
	}
	s.let++
	return true
}

// serve lets the fault happen and reports whether it was the answer.
func (f Fault) serve(w http.ResponseWriter, r *http.Request) bool {
	if !pause(r.Context(), f.Delay) {
		return true // nobody waits any more
	}
	for name, value := range f.Header {
		w.Header().Set(name, value)
	}
	switch {
	case f.Status == 0 && f.Body == "":
		return false
	case f.Body == "" && f.Status >= 400:
		refuse(w, faultOf(r.URL.Path, f.Status))
		return true
	case f.Body == "":
		w.WriteHeader(f.Status)
		return true
	}
	if w.Header().Get("Content-Type") == "" {
		kind := "application/json; charset=UTF-8"
		if strings.HasPrefix(strings.TrimSpace(f.Body), "<") {
			kind = "text/html; charset=UTF-8"
		}
		w.Header().Set("Content-Type", kind)
	}
	if f.Status != 0 {
		w.WriteHeader(f.Status)
	}
	w.Write([]byte(f.Body))
	return true
}

func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
