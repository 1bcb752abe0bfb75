package cri

import (
	"context"
	"path"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

type requestKey struct{}

func requestID(ctx context.Context) string {
	id, _ := ctx.Value(requestKey{}).(string)
	return id
}

// unary gives a request its id and logs its end. It decides nothing: the path
// that it sees is the client's text. A panic is left alone and ends the process,
// which starts again and finds its containers unharmed; a server that went on in
// a state nobody has thought about would be worse.
func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
	ctx = context.WithValue(ctx, requestKey{}, newULID())
	started := time.Now()
	resp, err := h(ctx, req)
	s.logEnd(ctx, info.FullMethod, started, err)
	return resp, err
}

type stream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s stream) Context() context.Context { return s.ctx }

func (s *Server) streaming(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) error {
	ctx := context.WithValue(ss.Context(), requestKey{}, newULID())
	started := time.Now()
	err := h(srv, stream{ss, ctx})
	s.logEnd(ctx, info.FullMethod, started, err)
	return err
}

func (s *Server) logEnd(ctx context.Context, full string, started time.Time, err error) {
	if err == nil {
		s.log.Debug("request", "method", path.Base(full), "request", requestID(ctx), "took", time.Since(started))
		return
	}
	if c := status.Code(err); c == codes.NotFound || c == codes.Unimplemented || c == codes.Canceled {
		s.log.Debug("request failed", "method", path.Base(full), "request", requestID(ctx), "error", err)
		return
	}
	s.log.Info("request failed", "method", path.Base(full), "request", requestID(ctx), "took", time.Since(started), "error", err)
}
