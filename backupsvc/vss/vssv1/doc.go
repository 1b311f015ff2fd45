// Package vssv1 is the wire form of VSS: messages generated from vss.proto. It
// promises the field numbers and error codes that VSS clients know.
package vssv1
