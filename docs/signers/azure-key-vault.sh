#!/bin/sh
# A signer command for gcemds on top of Azure Key Vault. It is an example, not run in the tests of gcemds.
# usage: azure-key-vault.sh VAULT KEY VERSION
# The key is of the type RSA or RSA-HSM; the Azure CLI is logged in as one who may get it and sign with it.
set -eu
read -r question
case $question in
*'"op":"public"'*)
	dir=$(mktemp -d)
	trap 'rm -rf "$dir"' EXIT
	az keyvault key download --vault-name "$1" -n "$2" -v "$3" -e DER -f "$dir/key" >/dev/null
	printf '{"public":"%s"}\n' "$(base64 -w0 "$dir/key")"
	;;
*'"alg":"RS256"'*)
	digest=$(printf %s "$question" | sed 's/.*"digest":"\([^"]*\)".*/\1/')
	signature=$(az keyvault key sign --vault-name "$1" -n "$2" -v "$3" -a RS256 --digest "$digest" \
		--query signature -o tsv | tr '_-' '/+')
	while [ $((${#signature} % 4)) -ne 0 ]; do signature="$signature="; done # base64 has padding, base64url has not
	printf '{"signature":"%s"}\n' "$signature"
	;;
*) echo '{"error":{"code":"unsupported","message":"only public and RS256"}}' ;;
esac
