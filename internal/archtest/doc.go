// Package archtest guards the shape of the repository: who imports whom, that every package says what it is, that the
// packages which people import stay light, and that links in the documents lead somewhere. It is only tests and is
// imported by nobody.
package archtest
