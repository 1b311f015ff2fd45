package api

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"

	"github.com/sluice-lsp/sluice/backupsvc/api/backupsv1"
	backups "github.com/sluice-lsp/sluice/backupsvc/store"
	"github.com/sluice-lsp/sluice/backupsvc/vault"
	"github.com/sluice-lsp/sluice/internal/errkind"
)

const (
	// pieceSize is how large the pieces are that the server sends.
	pieceSize = 512 << 10
	// defaultPage is what a limit of 0 means.
	defaultPage = 100
)

type wallets struct {
	backupsv1.UnimplementedVaultServiceServer
	s *Service
}

func (w *wallets) GetServer(ctx context.Context, _ *backupsv1.GetServerRequest) (*backupsv1.GetServerResponse, error) {
	ctx, e, id, err := w.s.caller(ctx)
	if err != nil {
		return nil, err
	}
	acc, err := e.Account(ctx, id)
	if err != nil {
		return nil, err
	}
	key, epoch := e.Key(), e.Epoch()
	return &backupsv1.GetServerResponse{
		ServerKey: key[:], Epoch: epoch[:], Identity: string(id), Quota: quotaToWire(e.Config().Quota.With(acc.Own)), Usage: usageToWire(acc.Usage),
		Binding: e.Binding(),
	}, nil
}

func (w *wallets) Put(ctx context.Context, r *backupsv1.PutRequest) (*backupsv1.PutResponse, error) {
	ctx, e, id, err := w.s.caller(ctx)
	if err != nil {
		return nil, err
	}
	if len(r.GetPuts())+len(r.GetDeletes()) > vault.MaxItems {
		return nil, errkind.Newf(errkind.Invalid, "A write may have %d items: split what need not change together.", vault.MaxItems)
	}
	write := vault.Write{Store: r.GetStoreId(), GlobalVersion: r.GlobalVersion}
	for _, item := range r.GetPuts() {
		write.Puts = append(write.Puts, vault.Item{Key: item.GetKey(), Version: item.GetVersion(), Value: item.GetValue()})
	}
	for _, item := range r.GetDeletes() {
		write.Deletes = append(write.Deletes, vault.Item{Key: item.GetKey(), Version: item.GetVersion()})
	}
	receipt, err := e.Put(ctx, id, write)
	if err != nil {
		return nil, err
	}
	return &backupsv1.PutResponse{Receipt: ReceiptToWire(receipt)}, nil
}

func (w *wallets) Upload(stream grpc.ClientStreamingServer[backupsv1.UploadRequest, backupsv1.UploadResponse]) error {
	ctx, e, id, err := w.s.caller(stream.Context())
	if err != nil {
		return err
	}
	first, err := stream.Recv()
	if errors.Is(err, io.EOF) {
		return errkind.New(errkind.Invalid, "The upload is empty: the first message says what is uploaded.")
	}
	if err != nil {
		return err
	}
	acc, err := e.Account(ctx, id)
	if err != nil {
		return err
	}
	size, limit := first.GetSize(), e.Config().Quota.With(acc.Own).ObjectBytes
	if size < 0 || size > limit || size > maxUploads {
		return errkind.Newf(errkind.Exhausted, "A value may have %d bytes here.", min(limit, maxUploads))
	}
	if len(first.GetContentSha256()) != len(vault.Hash{}) {
		return errkind.New(errkind.Invalid, "content_sha256 must have 32 bytes.")
	}
	// Room for all of it is taken before any of it: uploads that wait for room
	// half-way would wait for each other.
	if !w.s.uploads.TryAcquire(size) {
		return errkind.New(errkind.Unavailable, "Too many uploads at once: try again in a moment.")
	}
	defer w.s.uploads.Release(size)
	value := make([]byte, 0, min(size, pieceSize))
	for m := first; ; {
		if int64(len(value)+len(m.GetPiece())) > size {
			return errkind.Newf(errkind.Invalid, "More was uploaded than the %d bytes announced.", size)
		}
		value = append(value, m.GetPiece()...)
		if m, err = stream.Recv(); errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	if int64(len(value)) != size || vault.ContentHash(value) != vault.Hash(first.GetContentSha256()) {
		return errkind.New(errkind.Invalid, "What was uploaded is not what was announced, in size or SHA-256: upload it again.")
	}
	receipt, err := e.Put(ctx, id, vault.Write{
		Store: first.GetStoreId(), Puts: []vault.Item{{Key: first.GetKey(), Version: first.GetVersion(), Value: value}},
	})
	if err != nil {
		return err
	}
	return stream.SendAndClose(&backupsv1.UploadResponse{Receipt: ReceiptToWire(receipt)})
}

func (w *wallets) Get(ctx context.Context, r *backupsv1.GetRequest) (*backupsv1.GetResponse, error) {
	ctx, e, id, err := w.s.caller(ctx)
	if err != nil {
		return nil, err
	}
	obj, head, err := e.GetProven(ctx, id, r.GetStoreId(), r.GetKey(), r.GetNonce())
	if err != nil {
		return nil, err
	}
	return &backupsv1.GetResponse{
		Item: &backupsv1.Item{Key: obj.Key, Version: obj.Version, Value: obj.Value}, Seq: obj.Seq, WrittenMs: obj.AtMs, Head: HeadToWire(head),
	}, nil
}

func (w *wallets) Download(r *backupsv1.DownloadRequest, stream grpc.ServerStreamingServer[backupsv1.DownloadResponse]) error {
	ctx, e, id, err := w.s.caller(stream.Context())
	if err != nil {
		return err
	}
	obj, head, err := e.GetProven(ctx, id, r.GetStoreId(), r.GetKey(), r.GetNonce())
	if err != nil {
		return err
	}
	m := &backupsv1.DownloadResponse{
		Version: obj.Version, Seq: obj.Seq, WrittenMs: obj.AtMs, Size: int64(len(obj.Value)), Head: HeadToWire(head),
	}
	return inPieces(obj.Value, func(piece []byte, _ bool) error {
		m.Piece = piece
		err := stream.Send(m)
		m = &backupsv1.DownloadResponse{}
		return err
	})
}

// inPieces sends a value in pieces, at least one.
func inPieces(value []byte, send func(piece []byte, last bool) error) error {
	for {
		n := min(len(value), pieceSize)
		if err := send(value[:n], n == len(value)); err != nil || n == len(value) {
			return err
		}
		value = value[n:]
	}
}

func (w *wallets) ListKeys(ctx context.Context, r *backupsv1.ListKeysRequest) (*backupsv1.ListKeysResponse, error) {
	ctx, e, id, err := w.s.caller(ctx)
	if err != nil {
		return nil, err
	}
	page, err := e.List(ctx, id, r.GetStoreId(), r.GetPrefix(), r.GetBefore(), orDefault(r.GetLimit()))
	if err != nil {
		return nil, err
	}
	out := &backupsv1.ListKeysResponse{Next: page.Next, GlobalVersion: page.Global}
	for _, k := range page.Keys {
		out.Keys = append(out.Keys, &backupsv1.ListedKey{Key: k.Key, Version: k.Version, Size: k.Size, Seq: k.Seq})
	}
	return out, nil
}

func orDefault(limit int32) int {
	if limit == 0 {
		return defaultPage
	}
	return int(limit)
}

func (w *wallets) GetHead(ctx context.Context, r *backupsv1.GetHeadRequest) (*backupsv1.GetHeadResponse, error) {
	ctx, e, id, err := w.s.caller(ctx)
	if err != nil {
		return nil, err
	}
	head, err := e.Head(ctx, id, r.GetNonce())
	if err != nil {
		return nil, err
	}
	return &backupsv1.GetHeadResponse{Head: HeadToWire(head)}, nil
}

func (w *wallets) ListEntries(ctx context.Context, r *backupsv1.ListEntriesRequest) (*backupsv1.ListEntriesResponse, error) {
	ctx, e, id, err := w.s.caller(ctx)
	if err != nil {
		return nil, err
	}
	entries, err := e.Entries(ctx, id, r.GetAfter(), orDefault(r.GetLimit()))
	if err != nil {
		return nil, err
	}
	return &backupsv1.ListEntriesResponse{Entries: EntriesToWire(entries)}, nil
}

func (w *wallets) Watch(r *backupsv1.WatchRequest, stream grpc.ServerStreamingServer[backupsv1.WatchResponse]) error {
	ctx, e, id, err := w.s.caller(stream.Context())
	if err != nil {
		return err
	}
	return e.Watch(ctx, id, r.GetAfter(), func(entries []vault.Entry) error {
		return stream.Send(&backupsv1.WatchResponse{Entries: EntriesToWire(entries)})
	})
}

func (w *wallets) Export(r *backupsv1.ExportRequest, stream grpc.ServerStreamingServer[backupsv1.ExportResponse]) error {
	ctx, e, id, err := w.s.caller(stream.Context())
	if err != nil {
		return err
	}
	return e.Export(ctx, id, r.GetAfter(), func(k backups.Kept) error {
		m := &backupsv1.ExportResponse{Entry: EntryToWire(k.Entry), Present: k.Present}
		return inPieces(k.Value, func(piece []byte, last bool) error {
			m.Piece, m.Last = piece, last
			err := stream.Send(m)
			m = &backupsv1.ExportResponse{}
			return err
		})
	})
}
