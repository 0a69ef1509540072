/** How much of a question the reply repeats, in code points. */
const ECHO_LENGTH = 40;

/** @param earlier messages of the conversation before this one, without a system prompt */
export function demoReply(question: string, earlier: number): string {
  const echo = shorten(question);
  return /\p{Script=Han}/u.test(question) ? chinese(echo, earlier) : english(echo, earlier);
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
