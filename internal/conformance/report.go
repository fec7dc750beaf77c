package conformance

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
)

// A Report counts results by topic.
type Report struct {
	Address  string         `json:"address"`
	Other    bool           `json:"other_document"` // values were compared by their shape
	Topics   []Topic        `json:"topics"`
	Total    Topic          `json:"total"`
	NotRun   map[string]int `json:"not_run"` // reason to number of cases
	Failures []Failure      `json:"failures"`

	recorded []Case // what failed, without its source
}

// A Topic is one line of the report.
type Topic struct {
	Name   string `json:"name"`
	Cases  int    `json:"cases"`
	Passed int    `json:"passed"`
	Failed int    `json:"failed"`
	NotRun int    `json:"not_run"`
}

// A Failure is a case that failed.
type Failure struct {
	ID      string  `json:"id"`
	Topic   string  `json:"topic"`
	Request string  `json:"request"`
	Source  string  `json:"source"` // how the expectation is known
	Faults  []Fault `json:"faults"`
}

// NewReport returns an empty report of a server.
func NewReport(s Server) *Report {
	r := &Report{Address: s.Addr, Other: s.Other, NotRun: map[string]int{}, Failures: []Failure{}, Total: Topic{Name: "total"}}
	for _, t := range topics {
		r.Topics = append(r.Topics, Topic{Name: t.name})
	}
	return r
}

// Add counts a result.
func (r *Report) Add(result Result) {
	name := result.Case.Topic()
	i := slices.IndexFunc(r.Topics, func(t Topic) bool { return t.Name == name })
	if i < 0 {
		i, r.Topics = len(r.Topics), append(r.Topics, Topic{Name: name})
	}
	for _, t := range []*Topic{&r.Topics[i], &r.Total} {
		t.Cases++
		switch {
		case result.NotRun != "":
			t.NotRun++
		case len(result.Faults) > 0:
			t.Failed++
		default:
			t.Passed++
		}
	}
	switch {
	case result.NotRun != "":
		r.NotRun[result.NotRun]++
	case len(result.Faults) > 0:
		c := result.Case
		at, _ := slices.BinarySearchFunc(r.Failures, c.ID, func(f Failure, id string) int { return cmp.Compare(f.ID, id) })
		r.Failures = slices.Insert(r.Failures, at, Failure{c.ID, name, c.Method + " " + c.Path, c.Confidence + ": " + c.Source, result.Faults})
		if result.Answer.Status != 0 { // no answer is nothing to expect
			at, _ = slices.BinarySearchFunc(r.recorded, c.ID, func(c Case, id string) int { return cmp.Compare(c.ID, id) })
			r.recorded = slices.Insert(r.recorded, at, result.Recorded(""))
		}
	}
}

// Recorded returns what differs as a file of the corpus.
func (r *Report) Recorded(source string) []Case {
	cases := append([]Case{}, r.recorded...)
	for i := range cases {
		cases[i].Source = source
	}
	return cases
}

// String is the table, why cases were not run, and the failures.
func (r *Report) String() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "cases\tpass\tfail\tnot run\t  topic\n")
	for _, t := range append(slices.Clone(r.Topics), r.Total) {
		if t.Cases > 0 {
			fmt.Fprintf(w, "%d\t%d\t%d\t%d\t  %s\n", t.Cases, t.Passed, t.Failed, t.NotRun, t.Name)
		}
	}
	w.Flush()
	if r.Other {
		b.WriteString("\nThe machine is not that of the corpus: its values are compared by their shape.\n")
	}
	for _, reason := range slices.Sorted(maps.Keys(r.NotRun)) {
		fmt.Fprintf(&b, "\nNot run: %d cases that %s.\n", r.NotRun[reason], reason)
	}
	for _, f := range r.Failures {
		fmt.Fprintf(&b, "\n%s (%s)\n  %s\n", f.ID, f.Topic, f.Request)
		for _, fault := range f.Faults {
			fmt.Fprintf(&b, "  %s\n", fault)
		}
		fmt.Fprintf(&b, "  known from: %s\n", f.Source)
	}
	return b.String()
}
