#!/bin/sh
# A signer command for gcemds on top of the transit engine of Vault. It is an example, not run in the tests of gcemds.
# usage: vault-transit.sh KEY VERSION
# The key is of the type rsa-2048 or longer. Let the source have env: [VAULT_ADDR, VAULT_TOKEN].
set -eu
read -r question
case $question in
*'"op":"public"'*)
	key=$(vault read -format=json "transit/keys/$1" | jq -r --arg v "$2" '.data.keys[$v].public_key' |
		sed '/-----/d' | tr -d '\n')
	printf '{"public":"%s"}\n' "$key"
	;;
*'"alg":"RS256"'*)
	digest=$(printf %s "$question" | sed 's/.*"digest":"\([^"]*\)".*/\1/')
	signature=$(vault write -field=signature "transit/sign/$1/sha2-256" key_version="$2" \
		input="$digest" prehashed=true signature_algorithm=pkcs1v15)
	printf '{"signature":"%s"}\n' "${signature##*:}" # vault:v1:BASE64
	;;
*) echo '{"error":{"code":"unsupported","message":"only public and RS256"}}' ;;
esac
