// Package towerv1 is the wire form of the watchtower: messages and stubs
// generated from tower.proto, REST routes from tower.rest.yaml. It promises that
// fields keep their numbers and meaning within version 1.
package towerv1
