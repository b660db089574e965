/**
 * An issuer of tokens for trying `mmsb serve --auth jwt`: oidc-provider with one client, which gets access
 * tokens for the bus with its id and its secret. docs/guide/AUTHENTICATION.md goes through it.
 *
 *   npm install oidc-provider jose
 *   node oidc-issuer.mjs
 *
 * Its keys are made at each start. Set ISSUER_PORT, BUS_URL and TOKEN_SECONDS to change what is below.
 */
import { exportJWK, generateKeyPair } from 'jose'
import { Provider } from 'oidc-provider'

const { ISSUER_PORT = '9000', BUS_URL = 'http://127.0.0.1:7411', TOKEN_SECONDS = '600' } = process.env
const issuer = `http://127.0.0.1:${ISSUER_PORT}`
/** What clients may ask for. */
const scope = 'read:risk.* write:risk.* define:risk.* history:risk.*'

const { privateKey } = await generateKeyPair('ES256', { extractable: true })
const key = { ...(await exportJWK(privateKey)), alg: 'ES256', use: 'sig' }

const provider = new Provider(issuer, {
  jwks: { keys: [key] },
  clients: [
    {
      client_id: 'desk',
      client_secret: 'a-secret-for-trying',
      grant_types: ['client_credentials'],
      redirect_uris: [],
      response_types: [],
      id_token_signed_response_alg: 'ES256',
      scope,
    },
  ],
  scopes: scope.split(' '),
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: false },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => BUS_URL,
      getResourceServerInfo: () => ({
        scope,
        // The bus takes tokens that name it as their audience, and no others.
        audience: BUS_URL,
        accessTokenFormat: 'jwt',
        accessTokenTTL: Number(TOKEN_SECONDS),
        jwt: { sign: { alg: 'ES256' } },
      }),
    },
  },
})

provider.listen(Number(ISSUER_PORT), '127.0.0.1', () => console.log(`issuer ${issuer}`))
