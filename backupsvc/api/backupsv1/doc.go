// Package backupsv1 is the wire form of backups: messages and stubs generated
// from backups.proto, REST routes from backups.rest.yaml. It promises that
// fields keep their numbers and meaning within version 1.
package backupsv1
