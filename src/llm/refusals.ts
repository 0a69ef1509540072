/** What a model server refuses of a request, read from its error. */
import type { ReportedError } from './reported-error.ts';

interface Failure {
  readonly status?: number | undefined;
  readonly reported?: ReportedError | undefined;
}

/** Of the response, or the one that an error inside a 200 names. */
function statusOf({ status, reported }: Failure): number | undefined {
  return status !== undefined && status >= 300 ? status : reported?.status;
}

/** Members of the request that some model servers or models refuse. */
export type OptionalMember =
  | 'stream_options'
  | 'max_tokens'
  | 'max_completion_tokens'
  | 'temperature'
  | 'user';

/** How errors write them. */
const SPELLINGS: readonly (readonly [OptionalMember, RegExp])[] = [
  ['stream_options', /(?<![a-z])(?:stream[_ -]?options?|include[_ -]?usage)(?![a-z])/i],
  ['max_tokens', /(?<![a-z])max[_ -]?tokens(?![a-z])/i],
  ['max_completion_tokens', /(?<![a-z])max[_ -]?completion[_ -]?tokens(?![a-z])/i],
  ['temperature', /(?<![a-z])temperature(?![a-z])/i],
  // Bare it is a role or a person.
  ['user', /^user$|["'`]user["'`]/],
];

/**
 * The member that a 400 or 422 names, or an error without a status. Undefined: none.
 * @param sent has the members of the request
 */
export function refusedMember(
  failure: Failure,
  sent: Partial<Record<OptionalMember, unknown>>,
): OptionalMember | undefined {
  const { reported } = failure;
  const status = statusOf(failure);
  if (!reported || (status !== undefined && status !== 400 && status !== 422)) return undefined;
  const { param = '', message = '' } = reported;
  const text = /^(?:none|null)?$/i.test(param) ? message : param;
  // The first one: the message may continue with the name of the successor, or quote the request.
  const named = SPELLINGS.filter(([member]) => member in sent)
    .map(([member, spelling]) => ({ member, at: text.search(spelling) }))
    .filter(({ at }) => at >= 0)
    .sort((a, b) => a.at - b.at);
  return named[0]?.member;
}

const TOO_LONG_NAMES =
  /context_?(?:length|window|size)_?exceeded|exceed(?:s|ed)?_?context|(?:prompt|input|request|string)_?(?:is_?)?(?:too_?(?:long|large)|above_max_length)|prompt_tokens_exceeded|^1261\b/i;

/** `tokens` and limits in the words of OpenAI, Azure, Anthropic, Google, Mistral, vLLM, SGLang, TGI, llama.cpp and others. */
const TOO_LONG_WORDS: readonly RegExp[] = [
  // "This model's maximum context length is …", "exceeds the context window", "greater than the context length"
  /\b(?:max(?:imum)?|exceed(?:s|ed|ing)?|than|available|limited?|full|only|overflows?)\b[^.]{0,60}\bcontext[ _-]?(?:length|window|size|limit)/i,
  // "Context length exceeded", "context size has been exceeded", "n_ctx too small"
  /\b(?:context[ _-]?(?:length|window|size|limit)|n_ctx)\b[^.]{0,60}\b(?:exceed(?:s|ed|ing)?|full|only|too small|overflow)/i,
  // "prompt is too long", "The input (5000 tokens) is longer than …", "Prompt contains 40000 tokens …, too large for model"
  /\b(?:prompt|input|inputs|messages|conversation|chat history)\b[^.]{0,80}\b(?:too (?:long|large)|exceed(?:s|ed|ing)?|longer than|(?:must|should|can)\W?(?:not|n't) exceed|tokens too many)\b/i,
  // "maximum prompt length is 131072", "the maximum model length of 4096", "max_input_len"
  /\bmax(?:imum)?[ _](?:allowed )?(?:prompt|input|model|sequence)[ _](?:token )?len(?:gth)?\b/i,
  // TGI: "`inputs` tokens + `max_new_tokens` must be <= 4097"; DashScope: "Range of input length should be [1, 30720]"
  /\binputs?\b[^.]{0,40}\bmust (?:be <=|have less)|\brange of input length\b/i,
  // Groq, Cerebras, OpenAI: "Please reduce the length of the messages"; OpenAI's 429: "Request too large for gpt-4"
  /\breduce (?:the length of )?(?:the|your) (?:messages|prompt|input|conversation)|\brequest (?:entity )?too large\b/i,
  // Moonshot: "Your request exceeded model token limit"; "too many tokens"; Copilot: "prompt token count of … exceeds"
  /\bexceed(?:s|ed|ing)?\b[^.]{0,40}\btoken limit\b|\btoo many (?:input |prompt )?tokens\b/i,
  // vLLM computes the rest of the context for the reply.
  /\bmax_tokens must be at least 1, got -/i,
  /(?:超长|过长|超出|超过)[^。]{0,30}(?:上下文|长度|限制)|(?:上下文|输入|提示词|prompt)[^。]{0,30}(?:超长|过长|超出|超过)/i,
];

/** Never about the length, whatever their words say. */
const OTHER_STATUSES: ReadonlySet<number> = new Set([401, 402, 403, 404, 408, 409]);
const RATE_LIMITED = 429;

/** Whether the request has more tokens than the model takes. */
export function isTooLong(failure: Failure): boolean {
  const { reported } = failure;
  const status = statusOf(failure);
  if (status === 413) return true;
  if (!reported || (status !== undefined && OTHER_STATUSES.has(status))) return false;
  const { code = '', type = '', message = '' } = reported;
  // A single request beyond the limit of a minute; every other 429 passes with time.
  if (status === RATE_LIMITED) return /\brequest too large\b/i.test(message);
  if (TOO_LONG_NAMES.test(`${code} ${type}`)) return true;
  return TOO_LONG_WORDS.some((words) => words.test(message));
}

/** Whether the request would fit with a smaller limit of the reply, as in vLLM's "'max_tokens' … is too large". */
export function isReplyLimitTooLarge({ reported }: Failure): boolean {
  return /^\W*max_(?:completion_)?tokens\b/i.test(reported?.message ?? '');
}

const MIN_SHARE = 0.1;

/**
 * The share of the request that fits, by the two largest numbers of an error: the tokens of the request, and the limit.
 * Undefined where they are missing or mean something else.
 */
export function shareThatFits({ reported }: Failure): number | undefined {
  const message = (reported?.message ?? '')
    .replaceAll(/(?<=\d),(?=\d{3})/g, '')
    // "(4000 in the messages, 1000 in the completion)"
    .replaceAll(/\([^)]*\b(?:in|for) (?:the|your)\b[^)]*\)/g, '');
  const numbers = message.match(/\b\d{3,9}\b/g) ?? [];
  const [requested, limit] = [...new Set(numbers.map(Number))].sort((a, b) => b - a);
  const share = requested && limit ? limit / requested : 0;
  return share >= MIN_SHARE ? share : undefined;
}
