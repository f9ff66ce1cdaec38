import { createConnectTransport } from "@connectrpc/connect-web";

import { offer } from "./visit.js";

offer(createConnectTransport, { useBinaryFormat: false });
