import { type Client } from "@connectrpc/connect";
import { ContentForm, FinishReason, Role } from "../gen/trunkline/inference/v1/chat_pb.js";
import { type TokenUsage } from "../gen/trunkline/inference/v1/usage_pb.js";
import { type ChatService } from "../gen/trunkline/router/v1/chat_service_pb.js";
import { GatewayError } from "./gateway_error.js";

export interface Question {
  key: string;
  model: string;
  prompt: string;
  timeoutMs: number;
  /** Aborting it ends the call, here, in the gateway and upstream. */
  signal: AbortSignal;
  onText: (text: string) => void;
}

/** How a stream ended. */
export interface Answer {
  finishReason: FinishReason;
  usage: TokenUsage | undefined;
}

/** Streams the answer to a prompt into `onText`, piece by piece. Every failure is thrown as a GatewayError. */
export async function ask(client: Client<typeof ChatService>, question: Question): Promise<Answer> {
  const { key, model, prompt, timeoutMs, signal, onText } = question;
  const chat = {
    model,
    messages: [
      {
        role: Role.USER,
        contentForm: ContentForm.STRING,
        parts: [{ part: { case: "text" as const, value: { text: prompt } } }],
      },
    ],
  };
  let header = new Headers();
  let finishReason: FinishReason | undefined;
  let usage: TokenUsage | undefined;
  try {
    const responses = client.streamChat(
      { chat },
      {
        headers: key === "" ? {} : { authorization: `Bearer ${key}` },
        timeoutMs,
        signal,
        onHeader: (received) => (header = received),
      },
    );
    for await (const response of responses) {
      for (const { event } of response.events) {
        switch (event.case) {
          case "partStarted": {
            const begin = event.value.begin?.part;
            if (begin?.case === "text" && begin.value.text !== "") {
              onText(begin.value.text);
            }
            break;
          }
          case "textDelta":
            if (event.value.text !== "") {
              onText(event.value.text);
            }
            break;
          case "usageReported":
            usage = event.value.usage; // a later report replaces an earlier one
            break;
          case "choiceFinished":
            finishReason = event.value.finishReason;
            break;
          // a kind this program does not know is skipped
        }
      }
    }
  } catch (error) {
    throw GatewayError.from(error, header);
  }
  if (finishReason === undefined) {
    // status OK alone does not make an answer complete
    throw GatewayError.truncated(header);
  }
  return { finishReason, usage };
}

/** Returns "tool_calls" for TOOL_CALLS; a reason of a newer gateway is its number. */
export function finishName(reason: FinishReason): string {
  return (FinishReason[reason] ?? String(reason)).toLowerCase();
}
