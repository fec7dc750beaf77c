use google_cloud_auth::credentials::Builder;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let credentials = Builder::default().build_access_token_credentials()?;
    let token = credentials.access_token().await?;
    println!("a token of {} characters", token.token.len());
    Ok(())
}
