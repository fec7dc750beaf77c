package server

import (
	"context"
	"errors"
	"html"
	"strings"
	"time"

	"github.com/gcemds/gcemds/internal/fleet"
	"github.com/gcemds/gcemds/internal/token"
	"github.com/gcemds/gcemds/internal/tree"
)

// A refusal is an error with its public answer.
type refusal struct {
	status int
	text   string
	page   bool // wrapped in the HTML error page, else the bare text
	typ    *contentType
	allow  string
	class  class
}

func (e *refusal) Error() string { return e.text }

var (
	errFlavor    = &refusal{status: 403, page: true, text: "Missing Metadata-Flavor:Google header."}
	errForwarded = &refusal{status: 403, page: true, text: "Requests with forwarding headers are refused: the metadata server does not answer through a proxy."}
	errCircle    = &refusal{status: 508, text: "This request comes from this metadata server itself: one of its sources leads back to it.\n"}
	errHost      = &refusal{status: 403, page: true, text: "The Host header is not a name of this server. If it should be, add it to hosts in the configuration."}
	errLegacy    = &refusal{status: 403, page: true, class: classLegacy, text: "Legacy metadata endpoints are disabled. Please use the /v1/ endpoint."}
	errNotFound  = tree.ErrNotFound
	errClosed    = tree.ErrClosed
	errNoAccount = &refusal{status: 404, typ: typeJSON, class: classToken, text: `{"error":"invalid_request","error_description":"Service account not enabled on this instance"}`}
	errWaiters   = &refusal{status: 503, text: "Too many hanging GET requests; try again later.\n", class: classWait}
	// ErrShutdown is the cause of the base context when the server stops: it
	// ends hanging requests with 503, which tells clients to ask again.
	ErrShutdown = &refusal{status: 503, text: "The metadata server is restarting; try again.\n", class: classWait}
)

func badRequest(text string) *refusal { return &refusal{status: 400, text: text + "\n"} }

func notAllowed(methods string) *refusal {
	return &refusal{status: 405, text: "Method not allowed here; allowed: " + methods + "\n", allow: methods}
}

// statusGone is for the journal only: the client did not wait for its answer.
const statusGone = 499

// explain turns any error into the reply for the workload. It is the only
// place that does; what it does not know is an internal error and stays inside.
func (r *request) explain(err error) reply {
	var refused *refusal
	var unknown *fleet.Refusal
	var minting *token.Error
	switch {
	case errors.As(err, &refused):
	case errors.Is(err, tree.ErrNotFound):
		return page(404, "Error 404 (Not Found)!!1", "The requested URL <code>"+html.EscapeString(r.raw)+"</code> was not found on this server.")
	case errors.Is(err, tree.ErrClosed):
		refused = &refusal{status: 403, text: "Guest attributes endpoint access is disabled."}
	case errors.Is(err, tree.ErrUnset):
		refused = &refusal{status: 412, text: "This value has never been configured.\n"}
	case errors.As(err, &unknown):
		return told(unknown.Status, unknown.Text, unknown.RetryAfter)
	case errors.Is(err, fleet.ErrNoInstance):
		refused = &refusal{status: 403, page: true, text: "No instance is served to this caller."}
	case errors.As(err, &minting):
		return tokenError(minting)
	case errors.Is(err, context.Canceled):
		if errors.As(context.Cause(r.http.Context()), &refused) {
			break // it is us who go
		}
		return answer(statusGone, classGone, typeText, nil)
	default:
		refused = &refusal{status: 500, text: "Internal error; the log of the metadata server has the reason.\n"}
	}
	if refused.page {
		text := refused.text
		if refused == errLegacy {
			text = "Legacy metadata endpoint accessed: " + html.EscapeString(r.raw) + "\n<p>" + text
		}
		a := page(403, "Error 403 (Forbidden)!!1", "Your client does not have permission to get URL <code>"+html.EscapeString(r.raw)+"</code> from this server. "+text)
		a.class = refused.class
		return a
	}
	typ := refused.typ
	if typ == nil {
		typ = typeHTML
	}
	text := refused.text
	if typ == typeHTML { // some texts repeat what the request says
		text = html.EscapeString(text)
	}
	a := answer(refused.status, refused.class, typ, []byte(text))
	if refused.allow != "" {
		a.more = &more{allow: refused.allow}
	}
	return a
}

// page is the HTML error page with the phrases that Google's has (section 7.2).
func page(status int, title, text string) reply {
	var b strings.Builder
	b.WriteString("<!DOCTYPE html>\n<html lang=en>\n  <meta charset=utf-8>\n  <meta name=viewport content=\"initial-scale=1, minimum-scale=1, width=device-width\">\n  <title>")
	b.WriteString(title)
	b.WriteString("</title>\n  <p><b>")
	b.WriteString(title[len("Error "):len("Error 404")])
	b.WriteString(".</b> <ins>That’s an error.</ins>\n  <p>")
	b.WriteString(text)
	b.WriteString("  <ins>That’s all we know.</ins>\n")
	return answer(status, classError, typeHTML, []byte(b.String()))
}

// told is an answer in words that are made for the caller.
func told(status int, text string, retry time.Duration) reply {
	a := answer(status, classError, typeText, []byte(text+"\n"))
	a.more = &more{retry: seconds(retry)}
	return a
}

// seconds rounds up.
func seconds(d time.Duration) int { return int((d + time.Second - 1) / time.Second) }

// tokenError tells a workload what its source says to it, or else the class of
// what went wrong, never the cause.
func tokenError(e *token.Error) reply {
	if e.Text != "" {
		a := told(e.Status(), e.Text, e.RetryAfter)
		a.class = classToken
		return a
	}
	body := `{"error":"` + e.Code() + `","error_description":"` + e.Public() + `"}`
	a := answer(e.Status(), classToken, typeJSON, []byte(body))
	a.more = &more{retry: seconds(e.RetryAfter)}
	return a
}
