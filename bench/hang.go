package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"time"
)

const (
	hangRounds  = 3
	maxMemory   = 1.15 // of what a waiter costs the floor
	maxWake     = 150 * time.Millisecond
	idleCPU     = 2 * time.Millisecond // per second
	waitingLeaf = "instance/attributes/bench"
)

// hang measures many requests that wait for one value: what each of them costs
// in memory, and how soon all of them know the new value.
func (b *bench) hang(ctx context.Context) ([]row, error) {
	var ours, bare hangs
	for range hangRounds {
		reply, err := b.hangGCEMDS(ctx, &ours)
		if err != nil {
			return nil, err
		}
		if err := b.hangFloor(ctx, &bare, reply); err != nil {
			return nil, err
		}
	}
	ratio := spreadOf(quotients(ours.memory, bare.memory))
	wake := spreadOf(ours.wake)
	return []row{{
		what:   fmt.Sprintf("%d hanging GETs, memory of each", b.waiters),
		gcemds: fmt.Sprintf("%.2f KiB", spreadOf(ours.memory).median/1024),
		floor:  fmt.Sprintf("%.2f KiB", spreadOf(bare.memory).median/1024),
		ratio:  ratio.String(),
		bound:  fmt.Sprintf("at most %.2f", maxMemory),
		pass:   ratio.median <= maxMemory,
	}, {
		what:   fmt.Sprintf("%d hanging GETs, change to last answer", b.waiters),
		gcemds: fmt.Sprintf("%.0f ms (%.0f to %.0f)", wake.median, wake.min, wake.max),
		floor:  fmt.Sprintf("%.0f ms", spreadOf(bare.wake).median),
		bound:  fmt.Sprintf("at most %v", maxWake),
		pass:   wake.median <= float64(maxWake.Milliseconds()),
	}}, nil
}

// hangs are the results of the rounds of one server.
type hangs struct {
	memory []float64 // bytes per waiter
	wake   []float64 // milliseconds from the change to the last answer
}

// hangGCEMDS returns an answer that the waiters got.
func (b *bench) hangGCEMDS(ctx context.Context, results *hangs) ([]byte, error) {
	p, err := b.startGCEMDS(ctx)
	if err != nil {
		return nil, err
	}
	defer p.stop()
	if _, err := p.firstReply(ctx, ""); err != nil {
		return nil, err
	}
	if err := p.set(ctx, "before"); err != nil {
		return nil, err
	}
	err = b.wake(ctx, p, results, "after-the-change", func() error { return p.set(ctx, "after-the-change") })
	if err != nil {
		return nil, err
	}
	return p.get(waitingLeaf)
}

// set changes the value that is waited for, over the admin API.
func (p *process) set(ctx context.Context, value string) error {
	body := fmt.Sprintf(`[{"path":%q,"value":%q}]`, waitingLeaf, value)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://gcemds/v1/edit", strings.NewReader(body))
	if err != nil {
		return err
	}
	socket := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", p.admin)
	}}
	defer socket.CloseIdleConnections()
	answer, err := (&http.Client{Transport: socket, Timeout: patience}).Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		why, _ := io.ReadAll(io.LimitReader(answer.Body, 1000))
		return fmt.Errorf("the admin API answers %s: %s", answer.Status, why)
	}
	return nil
}

func (b *bench) hangFloor(ctx context.Context, results *hangs, reply []byte) error {
	p, err := b.startFloor(ctx, reply, true)
	if err != nil {
		return err
	}
	defer p.stop()
	_, body, _ := bytes.Cut(reply, headEnd)
	return b.wake(ctx, p, results, string(body), func() error {
		_, err := p.get("release")
		return err
	})
}

// wake lets many requests wait, makes the change, and reads all the answers,
// which must be want.
func (b *bench) wake(ctx context.Context, p *process, results *hangs, want string, change func() error) error {
	if err := p.settle(ctx); err != nil {
		return err
	}
	before, err := p.memory()
	if err != nil {
		return err
	}
	waiters, err := b.openWaiters(p)
	defer func() {
		for _, w := range waiters {
			w.conn.Close()
		}
	}()
	if err != nil {
		return err
	}
	if err := p.settle(ctx); err != nil {
		return err
	}
	after, err := p.memory()
	if err != nil {
		return err
	}
	if waiting, err := readAll(waiters, want); err != nil || waiting < len(waiters) {
		return fmt.Errorf("%d of %d waiters were answered before the change (%v)", len(waiters)-waiting, len(waiters), err)
	}

	changed := make(chan error, 1)
	start := time.Now()
	go func() { changed <- change() }()
	for deadline := start.Add(patience); ; {
		waiting, err := readAll(waiters, want)
		if err != nil {
			return err
		}
		if waiting == 0 {
			break
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d waiters have no answer %v after the change", waiting, patience)
		}
	}
	took := time.Since(start)
	if err := <-changed; err != nil {
		return err
	}
	results.memory = append(results.memory, float64(after-before)/float64(len(waiters)))
	results.wake = append(results.wake, float64(took.Microseconds())/1000)
	return nil
}

// A waiter is a connection with a request that waits.
type waiter struct {
	conn net.Conn
	got  []byte
	done bool
}

// openWaiters connects and asks. It returns what is to be closed even if it
// fails.
func (b *bench) openWaiters(p *process) ([]waiter, error) {
	request := p.request(waitingLeaf + "?wait_for_change=true")
	var waiters []waiter
	for range b.waiters {
		c, err := net.DialTimeout("tcp", p.addr, patience)
		if err != nil {
			return waiters, fmt.Errorf("waiter %d of %d: %w (see ulimit -n)", len(waiters)+1, b.waiters, err)
		}
		waiters = append(waiters, waiter{conn: c})
		if _, err := c.Write(request); err != nil {
			return waiters, err
		}
	}
	return waiters, nil
}

// readAll looks once at each waiter and returns how many still wait. It never
// sleeps on a connection: a sleeper costs the server the time to wake it, for
// each answer.
func readAll(waiters []waiter, want string) (waiting int, err error) {
	var buf [4096]byte
	for i := range waiters {
		if i%64 == 0 {
			runtime.Gosched() // to whoever makes the change
		}
		w := &waiters[i]
		if w.done {
			continue
		}
		n, err := readNow(w.conn, buf[:])
		if err != nil {
			return waiting, err
		}
		if n > 0 {
			w.got = append(w.got, buf[:n]...)
			size, err := replySize(w.got)
			if err != nil {
				return waiting, err
			}
			if w.done = size > 0 && len(w.got) >= size; w.done && !bytes.HasSuffix(w.got, []byte("\r\n\r\n"+want)) {
				return waiting, fmt.Errorf("a waiter got %.500q, not %q", w.got, want)
			}
		}
		if !w.done {
			waiting++
		}
	}
	return waiting, nil
}

// settle waits until the process has used next to no CPU time for a second.
func (p *process) settle(ctx context.Context) error {
	deadline := time.Now().Add(patience)
	before, err := p.cpu()
	for err == nil {
		if err := p.pause(ctx, time.Second, deadline); err != nil {
			return err
		}
		last := before
		if before, err = p.cpu(); before-last < idleCPU {
			break
		}
	}
	return err
}
