module n8ngateway

go 1.24.0

require (
	connectrpc.com/connect v1.19.2
	google.golang.org/genproto/googleapis/api v0.0.0-20250707201910-8d1bb00bc6a7
	google.golang.org/genproto/googleapis/rpc v0.0.0-20250707201910-8d1bb00bc6a7
	google.golang.org/protobuf v1.36.11
)
