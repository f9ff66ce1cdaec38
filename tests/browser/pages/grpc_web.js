import { createGrpcWebTransport } from "@connectrpc/connect-web";

import { offer } from "./visit.js";

offer(createGrpcWebTransport);
