// One unary call, one stream and one refused request to a hybrid-router: npm start -- [HOST:PORT]
import { credentials, Metadata, status, type CallOptions, type ServiceError } from "@grpc/grpc-js";

import { BadRequest, ErrorInfo, Status } from "./gen/google/rpc/error_details.js";
import { type Accounting } from "./gen/router/v1/accounting.js";
import { type Message, Role } from "./gen/router/v1/content.js";
import {
  type Answer,
  Caller,
  GenerateRequest,
  type GenerateResponse,
  Prompt,
  RouterServiceClient,
  StreamGenerateRequest,
  type StreamGenerateResponse,
} from "./gen/router/v1/router_service.js";
import { type Decision, decisionReasonToJSON, routeToJSON } from "./gen/router/v1/routing.js";

// Only UNAVAILABLE is retried: the router answers it when nothing was billed. The stream is retried by nobody.
const SERVICE_CONFIG = JSON.stringify({
  loadBalancingConfig: [{ round_robin: {} }],
  methodConfig: [
    {
      name: [
        { service: "router.v1.RouterService", method: "Generate" },
        { service: "router.v1.RouterService", method: "Explain" },
      ],
      retryPolicy: {
        maxAttempts: 4,
        initialBackoff: "0.2s",
        maxBackoff: "5s",
        backoffMultiplier: 2,
        retryableStatusCodes: ["UNAVAILABLE"],
      },
    },
  ],
});

const MESSAGE_BYTES_LIMIT = 32 << 20; // the router's own default

const router = new RouterServiceClient(process.argv[2] ?? "127.0.0.1:50051", credentials.createInsecure(), {
  "grpc.service_config": SERVICE_CONFIG,
  "grpc.max_receive_message_length": MESSAGE_BYTES_LIMIT,
  // The router allows a ping every 30 s; a model may think longer than that without a byte.
  "grpc.keepalive_time_ms": 45_000,
  "grpc.keepalive_timeout_ms": 20_000,
});

/** Ask, wait for the whole answer, and go on with the conversation. */
async function unary(): Promise<void> {
  const caller = Caller.create({ tenant: "acme", user: "u-17", session: "ts-1" });
  const messages = [user("Which of these two contracts ends first, and why does that matter?")];
  const response = await generate(GenerateRequest.create({ prompt: prompt(messages), caller }));
  console.log("unary:", text(response.answer));
  report("unary", response.decision, response.accounting);

  // The answer goes back as it came: thinking and signatures are the model's to read.
  messages.push({ role: Role.ROLE_ASSISTANT, parts: response.answer?.parts ?? [] }, user("Say it in one sentence."));
  const second = await generate(GenerateRequest.create({ prompt: prompt(messages), caller }));
  report("second turn", second.decision, second.accounting);
}

/** Print text as it comes; `call.cancel()` before the end hangs up on the provider. */
async function stream(): Promise<void> {
  const request = StreamGenerateRequest.create({
    prompt: prompt([user("Tell me about the first one.")]),
    caller: Caller.create({ tenant: "acme", user: "u-17", session: "ts-2" }),
  });
  const call = router.streamGenerate(request, new Metadata(), within(60));
  let decision: Decision | undefined;
  process.stdout.write("stream: ");
  for await (const { event } of call as AsyncIterable<StreamGenerateResponse>) {
    switch (event?.$case) {
      case "decided":
        decision = event.value.decision;
        break;
      case "delta":
        if (event.value.kind?.$case === "text") process.stdout.write(event.value.kind.value);
        break;
      case "finished":
        process.stdout.write("\n");
        report("stream", decision, event.value.accounting);
        break;
    }
  }
}

/** Send a request no provider takes, and print what the router says about it. */
async function refused(): Promise<void> {
  const request = GenerateRequest.create({ prompt: { ...prompt([user("Hello")]), maxOutputTokens: -1 } });
  try {
    await generate(request);
  } catch (error) {
    const failure = error as ServiceError;
    if (failure.code !== status.INVALID_ARGUMENT) throw error;
    const [packed] = failure.metadata.get("grpc-status-details-bin");
    if (!(packed instanceof Buffer)) throw error;
    for (const detail of Status.decode(packed).details) {
      if (detail.typeUrl.endsWith("/google.rpc.ErrorInfo")) {
        console.log("refused:", status[failure.code], ErrorInfo.decode(detail.value).reason);
      } else if (detail.typeUrl.endsWith("/google.rpc.BadRequest")) {
        for (const violation of BadRequest.decode(detail.value).fieldViolations) {
          console.log(`refused: ${violation.field}: ${violation.description}`);
        }
      }
    }
    return;
  }
  throw new Error("the request was expected to be refused");
}

function generate(request: GenerateRequest): Promise<GenerateResponse> {
  return new Promise((resolve, reject) => {
    router.generate(request, new Metadata(), within(60), (error, response) =>
      error ? reject(error) : resolve(response),
    );
  });
}

function within(seconds: number): Partial<CallOptions> {
  return { deadline: Date.now() + seconds * 1000 };
}

function prompt(messages: Message[]): Prompt {
  return Prompt.create({
    system: ["You answer questions about contracts, briefly."],
    messages,
    maxOutputTokens: 500,
  });
}

function user(words: string): Message {
  return {
    role: Role.ROLE_USER,
    parts: [{ kind: { $case: "text", value: { text: words, signature: "", model: "" } } }],
  };
}

function text(answer: Answer | undefined): string {
  // Thinking and tool calls have no text.
  return (answer?.parts ?? []).map(({ kind }) => (kind?.$case === "text" ? kind.value.text : "")).join("");
}

function report(what: string, decision: Decision | undefined, bill: Accounting | undefined): void {
  if (!decision || !bill) throw new Error(`${what}: no decision or no bill`);
  // Unknown is not zero.
  const cost = bill.totalNanoUsd === undefined ? "unknown" : `${bill.totalNanoUsd} nano-USD`;
  const [route, reason] = [routeToJSON(decision.route), decisionReasonToJSON(decision.reason)];
  const read = bill.cacheReport?.readTokens ?? 0n;
  console.log(`${what}: route ${route} (${reason}), cost ${cost}, cache read ${read} tokens`);
}

try {
  await unary();
  await stream();
  await refused();
} finally {
  router.close();
}
