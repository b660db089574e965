/** The pages that the server shows, in a browser that holds them to their own policy. */
import t from 'tap'
import { listen, serve } from '../http/helpers.js'
import { launchChromium, skipWithoutChromium as skip } from '../support/chromium.js'

t.test('the documentation works, and nothing of it is blocked', { timeout: 90_000, skip }, async (t) => {
  const { url } = await listen(await serve(t))
  const browser = await launchChromium(t)
  const page = await browser.newPage()
  const said: string[] = []
  page.on('console', (message) => {
    if (message.type() === 'error' || message.type() === 'warning') said.push(message.text())
  })
  page.on('pageerror', (error) => said.push(String(error)))
  const answer = await page.goto(`${url}/`)
  t.equal(answer?.status(), 200)
  t.match(page.url(), /\/docs/)
  await page.locator('.opblock').first().waitFor()
  const shown = await page.locator('.opblock').count()
  t.ok(shown > 20, `${shown} operations`)
  const opened = page.locator('.opblock', { hasText: '/v1/status' }).first()
  await opened.locator('button').first().click()
  await opened.getByRole('button', { name: 'Try it out' }).click()
  await opened.getByRole('button', { name: 'Execute' }).click()
  await opened.locator('.live-responses-table .response-col_status', { hasText: '200' }).waitFor()
  t.same(said, [])
})
