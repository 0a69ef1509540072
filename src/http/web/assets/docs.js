/** Starts Swagger UI, which is loaded by an own script before this module and knows no modules itself. */
const dark = matchMedia('(prefers-color-scheme: dark)').matches;
document.documentElement.classList.toggle('dark-mode', dark);

globalThis.SwaggerUIBundle({
  url: '/openapi.json',
  dom_id: '#docs',
  deepLinking: true,
  displayRequestDuration: true,
  // Its badge would ask a server elsewhere.
  validatorUrl: null,
});
