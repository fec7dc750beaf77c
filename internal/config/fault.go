package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// A Fault is one thing that is wrong with a configuration, and where.
type Fault struct {
	File         string // name of the file, or the flag or variable: "--listen", "GCEMDS_LISTEN"
	Line, Column int    // in the file, from 1; 0: none
	Path         string // such as instances.vm-1.metadata; "" if it concerns the whole
	Message      string
}

// Error is of the form "mds.yaml:12: instances.vm-1.metadata: message".
func (f Fault) Error() string {
	place := f.File
	if f.Line > 0 {
		place = fmt.Sprintf("%s:%d", f.File, f.Line)
	}
	parts := slices.DeleteFunc([]string{place, f.Path, f.Message}, func(s string) bool { return s == "" })
	return strings.Join(parts, ": ")
}

// Faults are all that is wrong, in the order of the file. There are at most
// 1000: who has more mends these first.
type Faults []Fault

const (
	maxFaults = 1000
	maxShown  = 50
)

// Error has a fault on each line.
func (f Faults) Error() string {
	var lines []string
	for i, fault := range f {
		if i == maxShown {
			lines = append(lines, fmt.Sprintf("… and %d more", len(f)-i))
			break
		}
		lines = append(lines, fault.Error())
	}
	return strings.Join(lines, "\n")
}

func (f Faults) err() error {
	if len(f) == 0 {
		return nil
	}
	slices.SortStableFunc(f, func(a, b Fault) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return f
}

// unknown says that there is no such name, and which one may be meant.
func unknown(what, name string, names []string) string {
	hint := ""
	if near := nearest(name, names); near != "" {
		hint = fmt.Sprintf(" (did you mean %q?)", near)
	} else if 0 < len(names) && len(names) <= 12 {
		hint = fmt.Sprintf(" (there are: %s)", strings.Join(names, ", "))
	}
	return fmt.Sprintf("unknown %s %s%s", what, quote(name), hint)
}

// nearest returns the name that a person who wrote word meant, or "": at most
// a third of the letters are wrong.
func nearest(word string, names []string) string {
	best, least := "", max(1, min(len(word), 60)/3)+1
	for _, name := range names {
		if d := distance(strings.ToLower(word), strings.ToLower(name)); d < least {
			best, least = name, d
		}
	}
	return best
}

// distance counts the letters to add, drop, change or swap with a neighbour
// that turn a into b. Words that are too long to be typing errors are far.
func distance(a, b string) int {
	if len(a) > 60 || len(b) > 60 {
		return len(a) + len(b)
	}
	before, last := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			change := last[j-1]
			if a[i-1] != b[j-1] {
				change++
			}
			row[j] = min(last[j]+1, row[j-1]+1, change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}

// quote shows a value that a person wrote, or the beginning of a long one.
func quote(s string) string {
	const most = 60
	if len(s) > most {
		return fmt.Sprintf("%q…", strings.ToValidUTF8(s[:most], ""))
	}
	return fmt.Sprintf("%q", s)
}
