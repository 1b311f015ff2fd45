package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// WriteJSON prints a value for programs, indented. Of protobuf messages every
// field is there under its name in the .proto, bytes in hex, 64-bit integers
// as strings (they exceed what JSON numbers hold exactly).
func WriteJSON(w io.Writer, v any) error {
	raw, err := marshal(v)
	if err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	// protojson varies its blanks on purpose; indenting makes them stable.
	var out bytes.Buffer
	if err := json.Indent(&out, raw, "", "  "); err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	out.WriteByte('\n')
	_, err = w.Write(out.Bytes())
	return err
}

// WriteJSONLine prints a value as one line, for streams of them.
func WriteJSONLine(w io.Writer, v any) error {
	raw, err := marshal(v)
	if err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	var out bytes.Buffer
	if err := json.Compact(&out, raw); err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	out.WriteByte('\n')
	_, err = w.Write(out.Bytes())
	return err
}

func marshal(v any) ([]byte, error) {
	if m, ok := v.(proto.Message); ok {
		return protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true, UseHexForBytes: true}.Marshal(m)
	}
	return json.Marshal(v)
}

// Raw is a message in the form of WriteJSON, as a part of a larger value.
func Raw(m proto.Message) (json.RawMessage, error) { return marshal(m) }
