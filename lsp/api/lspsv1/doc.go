// Package lspsv1 is the wire form of what an operator does about LSPS: messages
// and stubs generated from lsps.proto, REST routes from lsps.rest.yaml. It
// promises that fields keep their numbers and meaning within version 1.
package lspsv1
