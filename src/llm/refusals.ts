/** Finds in an error of a model server what it refuses: a member of the request, or its length. */
import type { ReportedError } from './reported-error.ts';

interface Failure {
  readonly status?: number | undefined;
  readonly reported?: ReportedError | undefined;
}

/** The status of the response, or the one that is named by an error in a response of 200. */
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

/** How error messages spell these members. */
const SPELLINGS: readonly (readonly [OptionalMember, RegExp])[] = [
  ['stream_options', /(?<![a-z])(?:stream[_ -]?options?|include[_ -]?usage)(?![a-z])/i],
  ['max_tokens', /(?<![a-z])max[_ -]?tokens(?![a-z])/i],
  ['max_completion_tokens', /(?<![a-z])max[_ -]?completion[_ -]?tokens(?![a-z])/i],
  ['temperature', /(?<![a-z])temperature(?![a-z])/i],
  // Without quotes it can mean the role or a person.
  ['user', /^user$|["'`]user["'`]/],
];

/**
 * The member of the request that the error names. Undefined: none, or the status is neither 400 nor 422 nor missing.
 * @param sent the members that the request has
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
  // The first one named counts: the message may then name the newer member to use, or quote the request.
  const named = SPELLINGS.filter(([member]) => member in sent)
    .map(([member, spelling]) => ({ member, at: text.search(spelling) }))
    .filter(({ at }) => at >= 0)
    .sort((a, b) => a.at - b.at);
  return named[0]?.member;
}

const TOO_LONG_NAMES =
  /context_?(?:length|window|size)_?exceeded|exceed(?:s|ed)?_?context|(?:prompt|input|request|string)_?(?:is_?)?(?:too_?(?:long|large)|above_max_length)|prompt_tokens_exceeded|^1261\b/i;

/**
 * `tokens` and limits in the words of OpenAI, Azure, Anthropic, Google, Mistral, vLLM, SGLang, TGI, llama.cpp and
 * others.
 */
const TOO_LONG_WORDS: readonly RegExp[] = [
  // "This model's maximum context length is …", "exceeds the context window", "greater than the context length"
  /\b(?:max(?:imum)?|exceed(?:s|ed|ing)?|than|available|limited?|full|only|overflows?)\b[^.]{0,60}\bcontext[ _-]?(?:length|window|size|limit)/i,
  // "Context length exceeded", "context size has been exceeded", "n_ctx too small"
  /\b(?:context[ _-]?(?:length|window|size|limit)|n_ctx)\b[^.]{0,60}\b(?:exceed(?:s|ed|ing)?|full|only|too small|overflow)/i,
  // "prompt is too long", "The input (5000 tokens) is longer than …", "Prompt contains 40000 tokens …, too large for
  // model"
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

/** Errors with these statuses are not about the length, whatever their message says. */
const OTHER_STATUSES: ReadonlySet<number> = new Set([401, 402, 403, 404, 408, 409]);
const RATE_LIMITED = 429;

/** Whether the request has more tokens than the model takes. */
export function isTooLong(failure: Failure): boolean {
  const { reported } = failure;
  const status = statusOf(failure);
  if (status === 413) return true;
  if (!reported || (status !== undefined && OTHER_STATUSES.has(status))) return false;
  const { code = '', type = '', message = '' } = reported;
  // One request that exceeds the limit per minute. Any other 429 passes with time.
  if (status === RATE_LIMITED) return /\brequest too large\b/i.test(message);
  if (TOO_LONG_NAMES.test(`${code} ${type}`)) return true;
  return TOO_LONG_WORDS.some((words) => words.test(message));
}

/** Whether the request would fit with a smaller `max_tokens`, as in vLLM's "'max_tokens' … is too large". */
export function isReplyLimitTooLarge({ reported }: Failure): boolean {
  return /^\W*max_(?:completion_)?tokens\b/i.test(reported?.message ?? '');
}

const MIN_SHARE = 0.1;

/**
 * Which share of the request fits (0 to 1). The two largest numbers in an error are taken as the tokens of the request
 * and the limit. Undefined if they are missing or implausible.
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
