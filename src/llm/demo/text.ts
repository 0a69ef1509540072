/** How much of a question the reply repeats, in code points. */
const ECHO_LENGTH = 40;

/** @param earlier messages of the conversation before this one, without a system prompt */
export function demoReply(question: string, earlier: number): string {
  const echo = shorten(question);
  return isChinese(question) ? chinese(echo, earlier) : english(echo, earlier);
}

/** What the demo model says before its reply when it is asked to think. */
export function demoReasoning(question: string): string {
  const echo = shorten(question);
  return isChinese(question)
    ? `用户说：“${echo}”。这段推理过程是预设的：演示模型并不会真正思考。\n\n先看问题，再选一段合适的回答。`
    : `The user says: “${echo}”. This reasoning is canned: the demo model does not think.\n\nFirst I look at the question, then I pick a text that fits.`;
}

/** @param results of the tools that the demo model has called */
export function demoResults(question: string, results: readonly string[]): string {
  const list = results.map((result) => `- \`${shorten(result).replaceAll('`', "'")}\``).join('\n');
  return isChinese(question)
    ? `## 工具结果\n\n工具返回了以下内容。我是**演示模型**，只会原样复述：\n\n${list}\n`
    : `## Tool results\n\nThis is what the tools returned. I am the **demo model**, so I only repeat it:\n\n${list}\n`;
}

export interface ShownImage {
  /** The format, such as `PNG`; `link` for an image that is given as an address. */
  readonly type: string;
  readonly bytes: number;
}

export function demoDescription(question: string, images: readonly ShownImage[]): string {
  const list = images.map(
    ({ type, bytes }) => `- ${type}${bytes > 0 ? `, ${Math.ceil(bytes / 1024)} KiB` : ''}`,
  );
  const count = images.length;
  return isChinese(question)
    ? `## 图片\n\n我收到了 **${count}** 张图片。我是**演示模型**，看不到图片的内容，这段描述是预设的：“一张构图和谐、色彩明快的图片。”\n\n${list.join('\n')}\n`
    : `## Image\n\nI received **${count}** image${count === 1 ? '' : 's'}. I am the **demo model** and cannot see them, so this description is canned: “a well composed picture in bright colours.”\n\n${list.join('\n')}\n`;
}

function isChinese(text: string): boolean {
  return /\p{Script=Han}/u.test(text);
}

function shorten(question: string): string {
  const characters = [...question.replace(/\s+/g, ' ').trim()];
  const text = characters.slice(0, ECHO_LENGTH).join('');
  return characters.length > ECHO_LENGTH ? `${text}…` : text;
}

function chinese(echo: string, earlier: number): string {
  const context =
    earlier === 0
      ? '这是本次对话的第一条消息。'
      : `在此之前，本次对话已有 **${earlier}** 条消息，我都收到了。`;
  return `## 演示模型

您好！我是内置的**演示模型**，只会给出预设的回答。您刚才说：“${echo}”。${context}

要接入真正的模型，请在 \`.env\` 中设置：

| 变量 | 含义 |
|---|---|
| \`OPENAI_API_KEY\` | 密钥 |
| \`OPENAI_BASE_URL\` | 任何兼容 OpenAI 的服务地址 |
| \`OPENAI_MODEL\` | 模型名称 |

\`\`\`sh
OPENAI_API_KEY=sk-…
OPENAI_MODEL=gpt-4o-mini
\`\`\`

- 保存后重新启动服务即可
- 本地模型可用 [Ollama](https://ollama.com)
`;
}

function english(echo: string, earlier: number): string {
  const seen = earlier === 1 ? '**1** earlier message' : `**${earlier}** earlier messages`;
  const context = earlier === 0 ? 'It is the first message of this conversation.' : `I also see ${seen}.`;
  return `## Demo model

Hello! I am the built-in **demo model**, and my answers are canned. You said: “${echo}”. ${context}

To talk to a real model, set these in \`.env\`:

| Variable | Meaning |
|---|---|
| \`OPENAI_API_KEY\` | your key |
| \`OPENAI_BASE_URL\` | any OpenAI-compatible server |
| \`OPENAI_MODEL\` | the model's name |

\`\`\`sh
OPENAI_API_KEY=sk-…
OPENAI_MODEL=gpt-4o-mini
\`\`\`

- then restart the server
- for a model on your own machine see [Ollama](https://ollama.com)
`;
}
